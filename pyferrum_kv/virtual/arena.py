"""Device memory at addresses of the host's own: pinned and managed memory have one address."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from itertools import count

import numpy as np

from pyferrum_kv.virtual.memory import ACCESS_TYPES, Memory

FIRST_ADDRESS = 0x6000_0000_0000  # far from where the kernel puts mappings, so the hint is taken
SLOT = 1 << 36
NO_RESERVE = 0x4000  # MAP_NORESERVE: pages that nobody touches cost nothing
DONT_NEED = 4  # MADV_DONTNEED

_slots = count()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class HostVisibleMemory(Memory):
    """A Memory that lies where its addresses say, and at the same addresses in every run.

    Device pointers are therefore readable by the host, which hardware would not allow; only pinned
    and managed memory may be used so. The pages go back when the object does, the addresses never:
    an array that outlives its driver reads zeros and does not end the process.
    """

    def __init__(self, capacity_bytes: int, sanitize: bool) -> None:
        size = -(-capacity_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        address = _reserve(size)
        super().__init__(size, sanitize, base=address)
        self.data = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self.data_views = {n: self.data.view(t) for n, t in ACCESS_TYPES.items()}
        weakref.finalize(self, _libc.madvise, address, size, DONT_NEED)


def _reserve(size: int) -> int:
    """Map zeroed pages at the next slot."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    wanted = FIRST_ADDRESS + next(_slots) % 256 * SLOT
    address = _libc.mmap(wanted, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise MemoryError(f"VirtualDriver: memory is {size} bytes; mmap refused them")
    return int(address)
