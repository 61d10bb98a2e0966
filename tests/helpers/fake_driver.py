"""FakeDriver: records every driver call, computes nothing, and fails where a test tells it to.

For what the virtual device cannot show: the order of calls, what happens when one fails, that a
finaliser makes none. Types and enums are those of cuda.bindings.driver.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import cuda.bindings.driver as real

ATTRIBUTES = {
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "COMPUTE_CAPABILITY_MINOR": 0,
    "MEMORY_POOLS_SUPPORTED": 1,
    "MULTIPROCESSOR_COUNT": 132,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
    "MAX_GRID_DIM_X": 2**31 - 1,
    "MAX_BLOCK_DIM_Z": 64,
}

FUNCTION_ATTRIBUTES = {"MAX_THREADS_PER_BLOCK": 1024, "MAX_DYNAMIC_SHARED_SIZE_BYTES": 49152}


class FakeDriver:
    """`calls` is what was called, in order; `fail(name, status)` makes the next such call fail."""

    CUDA_VERSION = real.CUDA_VERSION
    attributes = ATTRIBUTES

    def __init__(self, device_count: int = 2) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.device_count = device_count
        self.capturing: set[int] = set()
        self.params: list[tuple[int, int]] | None = None  # (offset, bytes); None: too old to tell
        self.raises: dict[str, Exception] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self._failures: dict[str, list[Any]] = {}
        self._handles = itertools.count(0x1000, 0x100)
        self._thread = threading.local()
        self._contexts: dict[int, int] = {}  # handle -> device

    def fail(self, name: str, status: str, times: int = 1) -> None:
        code = real.CUresult.__members__["CUDA_ERROR_" + status]
        self._failures.setdefault(name, []).extend([code] * times)

    def names(self) -> list[str]:
        """The names of the calls that change something."""
        asking = ("Get", "cuInit", "Query", "IsCapturing", "CtxSetCurrent")
        return [name for name, _ in self.calls if not any(a in name for a in asking)]

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def __getattr__(self, name: str) -> Any:
        found = getattr(real, name)  # AttributeError for a name that the bindings lack
        if not name.startswith("cu") or isinstance(found, type):
            return found

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, args))
            if name in self.before:
                self.before[name]()
            if name in self.raises:
                raise self.raises[name]
            failures = self._failures.get(name)
            if failures:
                return (failures.pop(0), None)
            if name == "cuFuncGetParamInfo":
                return self._param_info(args[1])
            answer = getattr(type(self), "_" + name, None)
            return (real.CUresult.CUDA_SUCCESS, *(answer(self, *args) if answer else ()))

        return call

    def _param_info(self, index: int) -> tuple[Any, Any, Any]:
        status = real.CUresult
        if self.params is None:
            return (status.CUDA_ERROR_NOT_SUPPORTED, None, None)
        if index >= len(self.params):
            return (status.CUDA_ERROR_INVALID_VALUE, None, None)
        return (status.CUDA_SUCCESS, *self.params[index])

    def _new(self, kind: str) -> tuple[Any]:
        return (getattr(real, kind)(next(self._handles)),)

    # what each call answers beside success; a call that is not here answers nothing

    def _cuDriverGetVersion(self) -> tuple[Any]:
        return (12040,)

    def _cuDeviceGetCount(self) -> tuple[Any]:
        return (self.device_count,)

    def _cuDeviceGet(self, ordinal: int) -> tuple[Any]:
        return (real.CUdevice(ordinal),)

    def _cuDeviceGetName(self, length: int, device: Any) -> tuple[Any]:
        return (b"Fake\0" + bytes(length - 5),)

    def _cuDeviceTotalMem(self, device: Any) -> tuple[Any]:
        return (16 << 30,)

    def _cuDeviceGetAttribute(self, attribute: Any, device: Any) -> tuple[Any]:
        return (self.attributes.get(attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 1024),)

    def _cuDevicePrimaryCtxRetain(self, device: Any) -> tuple[Any]:
        return (real.CUcontext(0xC0 + int(device)),)

    def _cuCtxCreate(self, *args: Any) -> tuple[Any]:
        (made,) = self._new("CUcontext")
        self._contexts[int(made)] = int(args[-1])
        self._thread.current = made
        return (made,)

    def _cuCtxGetCurrent(self) -> tuple[Any]:
        return (getattr(self._thread, "current", real.CUcontext(0)),)

    def _cuCtxSetCurrent(self, context: Any) -> tuple[()]:
        self._thread.current = context
        return ()

    def _cuCtxGetDevice(self) -> tuple[Any]:
        current = int(self._thread.current)
        return (real.CUdevice(self._contexts.get(current, current & 0xF)),)

    def _cuStreamCreateWithPriority(self, flags: int, priority: int) -> tuple[Any]:
        return self._new("CUstream")

    def _cuStreamGetCtx(self, stream: Any) -> tuple[Any]:
        return self._cuCtxGetCurrent()

    def _cuStreamIsCapturing(self, stream: Any) -> tuple[Any]:
        return (real.CUstreamCaptureStatus(int(int(stream) in self.capturing)),)

    def _cuStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[()]:
        self.capturing.add(int(stream))
        return ()

    def _cuStreamEndCapture(self, stream: Any) -> tuple[Any]:
        self.capturing.discard(int(stream))
        return self._new("CUgraph")

    def _cuGraphCreate(self, flags: int) -> tuple[Any]:
        return self._new("CUgraph")

    def _cuGraphAddKernelNode(self, *args: Any) -> tuple[Any]:
        return self._new("CUgraphNode")

    def _cuGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any]:
        return self._new("CUgraphExec")

    def _cuGraphExecUpdate(self, executable: Any, graph: Any) -> tuple[Any]:
        return (real.CUgraphExecUpdateResultInfo(),)

    def _cuEventCreate(self, flags: int) -> tuple[Any]:
        return self._new("CUevent")

    def _cuEventElapsedTime(self, start: Any, end: Any) -> tuple[Any]:
        return (1.5,)

    def _cuMemPoolCreate(self, props: Any) -> tuple[Any]:
        return self._new("CUmemoryPool")

    def _cuMemPoolGetAttribute(self, pool: Any, attribute: Any) -> tuple[Any]:
        return (0,)

    def _cuMemAlloc(self, num_bytes: int) -> tuple[Any]:
        return self._new("CUdeviceptr")

    def _cuImportExternalMemory(self, desc: Any) -> tuple[Any]:
        return self._new("CUexternalMemory")

    def _cuExternalMemoryGetMappedBuffer(self, memory: Any, desc: Any) -> tuple[Any]:
        return self._new("CUdeviceptr")

    def _cuMemAllocFromPoolAsync(self, num_bytes: int, pool: Any, stream: Any) -> tuple[Any]:
        return self._new("CUdeviceptr")

    def _cuTensorMapEncodeTiled(self, *args: Any) -> tuple[Any]:
        return (real.CUtensorMap(),)

    def _cuModuleLoadDataEx(self, *args: Any) -> tuple[Any]:
        return self._new("CUmodule")

    def _cuModuleGetFunction(self, module: Any, name: bytes) -> tuple[Any]:
        return self._new("CUfunction")

    def _cuModuleGetGlobal(self, module: Any, name: bytes) -> tuple[Any, Any]:
        return (*self._new("CUdeviceptr"), 8)

    def _cuFuncGetAttribute(self, attribute: Any, function: Any) -> tuple[Any]:
        return (FUNCTION_ATTRIBUTES.get(attribute.name.removeprefix("CU_FUNC_ATTRIBUTE_"), 0),)

    def _cuOccupancyMaxActiveBlocksPerMultiprocessor(self, *args: Any) -> tuple[Any]:
        return (2,)
