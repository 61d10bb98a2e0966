"""A driver whose cuLaunchKernelEx is a C function, and launches held inside it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from helpers.kernels import AXPY

from pyferrum_kv import CudaContext, CudaSlice, CudaStream, LaunchConfig, PreparedLaunch

PROTOTYPE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)


class Native:
    """cuLaunchKernelEx as a C function: notes what it is handed, and answers what it is told."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.during: Callable[[], None] = lambda: None
        self.function = PROTOTYPE(self._call)
        self.address = ctypes.cast(self.function, ctypes.c_void_p).value
        self.asked: list[tuple[Any, ...]] = []

    def _call(self, config: int, function: int, params: int, extra: int | None) -> int:
        self.during()
        dims = (ctypes.c_uint * 7).from_address(config)
        stream = ctypes.c_void_p.from_address(config + 32).value
        at = (ctypes.c_void_p * 4).from_address(params)
        n = ctypes.c_int.from_address(at[2]).value
        a = ctypes.c_float.from_address(at[3]).value
        x, y = (ctypes.c_uint64.from_address(at[i]).value for i in (0, 1))
        self.seen.append(
            {"dims": list(dims), "stream": stream, "function": function, "extra": extra}
            | {"arguments": (x, y, n, a), "params": params}
        )
        return self.answers.pop(0) if self.answers else 0


class InFlight:
    """A launch on a thread of its own, held inside the driver until let go."""

    def __init__(self, native: Native, launch: Callable[[], Any]) -> None:
        self.inside, self._go = threading.Event(), threading.Event()
        self._native = native
        native.during = self._hold
        self._thread = threading.Thread(target=launch)
        self._thread.start()
        assert self.inside.wait(10)

    def _hold(self) -> None:
        self._native.during = lambda: None  # only this one
        self.inside.set()
        assert self._go.wait(10)

    def let_go(self) -> None:
        self._go.set()
        self._thread.join()


def ready(context: CudaContext) -> tuple[CudaStream, CudaSlice, CudaSlice, PreparedLaunch]:
    """A stream, two slices of 40 floats, and a prepared axpy of them."""
    stream = context.new_stream()
    x, y = stream.alloc(40, "f4"), stream.alloc(40, "f4")
    function = context.load_module(AXPY).function("axpy")
    return stream, x, y, function.prepare(LaunchConfig(2, 32, 64), x, y, 40, 2.0, stream=stream)
