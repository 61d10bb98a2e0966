"""Generic addresses: the windows through which shared and local memory are seen."""

from __future__ import annotations

from typing import Any

from pyferrum_kv.virtual.memory import BASE

SHARED_WINDOW = BASE - (2 << 32)
LOCAL_WINDOW = BASE - (1 << 32)
WINDOW_BYTES = 1 << 32


def is_in(address: Any, space: str) -> Any:
    """bool [lanes]: whether generic addresses (uint64) lie in the space's window."""
    in_shared = address - SHARED_WINDOW < WINDOW_BYTES
    in_local = address - LOCAL_WINDOW < WINDOW_BYTES
    if space == "shared":
        return in_shared
    return in_local if space == "local" else ~(in_shared | in_local)
