"""UnifiedSlice: managed memory, one address for host and devices."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.driver.memory import Memory, checked_size
from pyferrum_kv.errors import ArgumentError, ClosedError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext
    from pyferrum_kv.driver.stream import CudaStream

_ATTACH = {"global": 1, "host": 2, "single": 4}  # CU_MEM_ATTACH_*
_CPU = -1  # CU_DEVICE_CPU


class UnifiedSlice(Memory):
    """`len` elements of managed memory. Owns it."""

    __slots__ = ("_buffer", "attach_mode", "attached_to")

    def __init__(self, context: CudaContext, length: int, dtype: npt.DTypeLike) -> None:
        length, element = checked_size("alloc_unified", length, dtype)
        num_bytes = max(length * element.itemsize, 1)
        ptr = context.call(
            "cuMemAllocManaged", num_bytes, _ATTACH["global"], on=f"{num_bytes} bytes"
        )
        call, what = context.api.call, f"unified memory {int(ptr):#x}"

        def free() -> None:
            call(
                "cuCtxSynchronize", on=what
            )  # cuMemFree of managed memory does not wait for kernels
            call("cuMemFree", ptr, on=what)

        owned = Owned(context.ledger, ptr, what, free)
        super().__init__(context, None, int(ptr), length, element, owned)
        self._buffer = (ctypes.c_byte * num_bytes).from_address(int(ptr))
        self.attach_mode = "global"
        self.attached_to: CudaStream | None = None

    def attach(self, stream: CudaStream, mode: str = "single") -> None:
        """From here on only the "host" or the "single" stream uses it; or all: "global"."""
        if mode not in _ATTACH:
            raise ArgumentError(f"attach: mode is {mode!r}; wanted one of {', '.join(_ATTACH)}")
        args = (stream.cu_stream, self.device_ptr, 0, _ATTACH[mode])
        self.context.call("cuStreamAttachMemAsync", *args, on=f"{self!r}, {mode}")
        self.attach_mode, self.attached_to = mode, stream if mode == "single" else None

    def prefetch(self, stream: CudaStream, *, to_host: bool = False) -> None:
        """Move the pages to the device, or to the host; asynchronous on `stream`."""
        context, raw = self.context, self.context.api.raw
        place, flags = _CPU if to_host else context.ordinal, ()
        target: Any = raw.CUdevice(place)
        if context.api.bindings_version >= 13000:
            target, flags = raw.CUmemLocation(), (0,)  # type: ignore[assignment]
            kinds = raw.CUmemLocationType
            target.type = (
                kinds.CU_MEM_LOCATION_TYPE_HOST if to_host else kinds.CU_MEM_LOCATION_TYPE_DEVICE
            )
            target.id = 0 if to_host else place
        args = (self.device_ptr, self.num_bytes, target, *flags, stream.cu_stream)
        context.call("cuMemPrefetchAsync", *args, on=f"{self!r}")

    def numpy(self) -> npt.NDArray[Any]:
        """Wait for the device, and return the host's view; valid until close().

        Without concurrent managed access the host may touch it only while no kernel runs.
        """
        if self.token == 0:
            raise ClosedError(f"numpy: {self!r} is closed")
        if self.attached_to is not None:
            self.attached_to.synchronize()
        else:
            self.context.synchronize()
        return np.frombuffer(memoryview(self._buffer), self.dtype, len(self))
