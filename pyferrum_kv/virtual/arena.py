"""Device memory at addresses of the host's own: pinned and managed memory have one address."""

from __future__ import annotations

import mmap

import numpy as np

from pyferrum_kv.virtual.memory import ACCESS_TYPES, Memory


class HostVisibleMemory(Memory):
    """A Memory that lies where its addresses say.

    Device pointers are therefore readable by the host, which hardware would not allow; only pinned
    and managed memory may be used so.
    """

    def __init__(self, capacity_bytes: int, sanitize: bool) -> None:
        pages = np.frombuffer(mmap.mmap(-1, -(-capacity_bytes // mmap.PAGESIZE) * mmap.PAGESIZE))
        super().__init__(pages.nbytes, sanitize, base=pages.ctypes.data)
        self.data = pages.view(np.uint8)
        self.data_views = {n: self.data.view(t) for n, t in ACCESS_TYPES.items()}
