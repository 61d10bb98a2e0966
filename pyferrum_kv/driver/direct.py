"""The one call that a launch is made of, at the driver's own address.

cuLaunchKernelEx for a kernel, cuGraphLaunch for a graph of one.

The bindings turn four Python objects into C values and a status into an enum at each call. ctypes
converts nothing when it is handed what byref() made beforehand, and takes a tuple as it is; it
lets other threads run meanwhile, as the bindings do. The Python side of a call, nanoseconds against
a libcuda that returns at once, on CPython 3.12: the bindings' cuLaunchKernelEx 375 (350 of 12.9),
ctypes with c_void_p objects 305, with `argtypes` and integers 350, with byref() objects 175.

Only the real module is gone round. Any other driver object is called by its names.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.codes import INVALID_CONTEXT, INVALID_HANDLE, STICKY
from pyferrum_kv.errors import DriverError

if TYPE_CHECKING:
    from pyferrum_kv.driver.arguments import ArgumentBlock
    from pyferrum_kv.driver.bound import BoundContext

Packed = tuple[Any, ...]
"""What call() takes; keeps alive all that the driver will read."""

_NAME, _SINCE = "cuLaunchKernelEx", 11060
_GRAPH_NAME, _GRAPH_SINCE = "cuGraphLaunch", 10000
_PER_THREAD = 2  # CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM


class LaunchEx:
    """How launches reach one driver: `call(*pack(config, function, block))` is the status."""

    __slots__ = ("call", "pack")

    def __init__(
        self, call: Callable[..., Any], pack: Callable[[Any, Any, ArgumentBlock], Packed]
    ) -> None:
        self.call, self.pack = call, pack

    @classmethod
    def of(cls, raw: Any) -> LaunchEx:
        """By address where `raw` is the bindings' own module, by name anywhere else."""
        address = _address(raw, _NAME, _SINCE)
        return cls.at(address) if address else cls.by_name(raw)

    @classmethod
    def at(cls, address: int) -> LaunchEx:
        """A C function of the type of cuLaunchKernelEx; the GIL is released while it runs."""
        return cls(ctypes.CFUNCTYPE(ctypes.c_int)(address), _pointers)

    @classmethod
    def by_name(cls, raw: Any) -> LaunchEx:
        """Through the object's own name, looked up at each launch."""

        def call(config: Any, function: Any, address: int, _: ArgumentBlock) -> Any:
            return raw.cuLaunchKernelEx(config, function, address, 0)[0]

        return cls(call, lambda config, function, block: (config, function, block.address, block))


class GraphLaunch:
    """How launches of a graph reach one driver: `call(*pack(executable, stream))` is the status."""

    __slots__ = ("call", "pack")

    def __init__(self, call: Callable[..., Any], pack: Callable[[Any, Any], Packed]) -> None:
        self.call, self.pack = call, pack

    @classmethod
    def of(cls, raw: Any) -> GraphLaunch:
        """By address where `raw` is the bindings' own module, by name anywhere else."""
        address = _address(raw, _GRAPH_NAME, _GRAPH_SINCE)
        if address:
            return cls(ctypes.CFUNCTYPE(ctypes.c_int)(address), _handles)
        return cls(lambda *handles: raw.cuGraphLaunch(*handles)[0], lambda *handles: handles)


def _address(raw: Any, name: str, since: int) -> int:
    """Where the driver has a function; 0 for any other object than the bindings' own module."""
    if not isinstance(raw, ModuleType) or raw.__name__ != "cuda.bindings.driver":
        return 0
    # stream 0 must mean to this call what it means to all others
    of_thread = int(os.environ.get("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM") or 0)
    status, address = raw.cuGetProcAddress(name.encode(), since, _PER_THREAD if of_thread else 0)[
        :2
    ]
    return int(address or 0) if not status else 0


def _handles(*handles: Any) -> Packed:
    return tuple(_pointer(int(handle), handle) for handle in handles)


def _pointers(config: Any, function: Any, block: ArgumentBlock) -> Packed:
    """The four C arguments, ready for the registers; the last is `extra`, which is null."""
    return (
        _pointer(config.getPtr(), config),
        _pointer(int(function), function),
        _pointer(block.address, block),
        None,
    )


def _pointer(address: int, owner: object) -> Any:
    place = ctypes.c_char.from_address(address)  # nothing is read or written through it
    place.owner = owner  # type: ignore[attr-defined]
    return ctypes.byref(place)


def again_or_raise(
    context: BoundContext,
    call: Callable[..., Any],
    packed: Packed,
    status: Any,
    on: str,
    *,
    name: str = _NAME,
) -> None:
    """A launch failed: once more if the thread's context is another one than ours, else raise."""
    api = context.api
    if (
        status in (INVALID_CONTEXT, INVALID_HANDLE)
        and int(api.call("cuCtxGetCurrent")) != context.handle
    ):
        context.bind_to_thread()
        status = call(*packed)
    if status:
        with suppress(ValueError):  # a status newer than the bindings keeps its number
            status = api.raw.CUresult(status)
        error = api.error(name, status, on)
        if isinstance(error, DriverError) and error.code in STICKY:
            raise context.lose(error) from error
        raise error
