"""Checks that end a context: errors that surface late and stay.

A real GPU then needs a new process.
"""

from __future__ import annotations

import ctypes

from pyferrum_kv.testing.ptx import STORE
from pyferrum_kv.testing.session import Session


def check_a_wild_store_is_sticky(s: Session) -> None:
    """ILLEGAL_ADDRESS comes with the next synchronisation, and with every call after it."""
    d = s.driver
    function = s.function(STORE, "store")
    arguments = ((0x10, 1), (ctypes.c_void_p, ctypes.c_uint32))
    s.ok(d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, s.stream, arguments, 0))
    s.refused(d.cuStreamSynchronize(s.stream), "ILLEGAL_ADDRESS")
    s.refused(d.cuMemAlloc(16), "ILLEGAL_ADDRESS")
    s.refused(d.cuCtxSynchronize(), "ILLEGAL_ADDRESS")
