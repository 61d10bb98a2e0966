"""Host memory that driver calls are given: a buffer, an address, or page-locked memory of ours."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

POISON = 0xA5
"""What a host buffer holds between an asynchronous copy into it and the synchronisation."""


@dataclass(frozen=True, slots=True)
class HostBuffer:
    """`address` in host memory; `owner` keeps those bytes alive, None when nobody can."""

    address: int
    owner: object | None


def host_buffer(argument: Any, num_bytes: int) -> HostBuffer:
    """The memory that a host pointer argument names, in the forms that the bindings take.

    None, an int address, an object with getPtr(), or anything with the buffer protocol.
    """
    if argument is None:
        return HostBuffer(0, None)
    if isinstance(argument, int):
        return HostBuffer(int(argument), None)
    if hasattr(argument, "getPtr"):
        return HostBuffer(int(argument.getPtr()), argument)
    if isinstance(argument, np.ndarray):
        if not (argument.flags.c_contiguous or argument.flags.f_contiguous):
            raise BufferError("ndarray is not contiguous")
        return HostBuffer(argument.ctypes.data, argument)
    view = memoryview(argument)
    if not view.contiguous:
        raise BufferError("memoryview: underlying buffer is not contiguous")
    if view.nbytes == 0:
        return HostBuffer(0, view)
    flat = np.frombuffer(view.cast("B") if view.c_contiguous else view, dtype=np.uint8)
    return HostBuffer(flat.ctypes.data, flat)


def read_host(address: int, num_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A copy of host bytes."""
    return np.frombuffer(ctypes.string_at(address, num_bytes), dtype=np.uint8)


def write_host(address: int, data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Write bytes to host memory."""
    contiguous = np.ascontiguousarray(data)
    ctypes.memmove(address, contiguous.ctypes.data, contiguous.nbytes)


def poison_host(address: int, num_bytes: int) -> None:
    """Make what lies there recognisably not yet copied."""
    ctypes.memset(address, POISON, num_bytes)
