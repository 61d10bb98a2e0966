"""PinnedSlice: page-locked host memory, which copies reach asynchronously."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.driver.event import CudaEvent
from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.driver.memory import Memory, checked_size
from pyferrum_kv.errors import ClosedError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext
    from pyferrum_kv.driver.stream import CudaStream

_PORTABLE, _WRITE_COMBINED = 1, 4


class PinnedSlice(Memory):
    """`len` elements of page-locked memory, readable by kernels at device_ptr. Owns it.

    `array` is the NumPy view, and is valid until close(). A copy that still runs may not have
    arrived in it: wait() returns when all copies made through streams have passed.
    """

    __slots__ = ("_passed", "array")

    def __init__(
        self, context: CudaContext, length: int, dtype: npt.DTypeLike, write_combined: bool
    ) -> None:
        length, element = checked_size("alloc_pinned", length, dtype)
        num_bytes = max(length * element.itemsize, 1)
        flags = _PORTABLE | (_WRITE_COMBINED if write_combined else 0)
        ptr = int(context.call("cuMemHostAlloc", num_bytes, flags, on=f"{num_bytes} bytes"))
        self._passed: dict[tuple[int, int], CudaEvent] = {}
        call, what, passed = context.api.call, f"pinned memory {ptr:#x}", self._passed

        def free() -> None:
            for event in passed.values():
                if not event.is_closed:  # a closing context has waited, and closed it first
                    call("cuEventSynchronize", event.cu_event, on=what)
            passed.clear()
            call("cuMemFreeHost", ptr, on=what)

        owned = Owned(context.ledger, ptr, what, free)
        super().__init__(context, None, ptr, length, element, owned)
        buffer = (ctypes.c_byte * num_bytes).from_address(ptr)
        self.array: npt.NDArray[Any] = np.frombuffer(memoryview(buffer), element, length)

    def copied_on(self, stream: CudaStream) -> None:
        """Remember that a copy on `stream` uses this memory."""
        key = (stream.context.handle, stream.handle)  # portable memory: any context's stream
        event = self._passed.get(key)
        if event is None:
            event = self._passed[key] = CudaEvent(stream.context)
        event.record(stream)

    def wait(self) -> npt.NDArray[Any]:
        """Wait for the copies that use this memory, and return the array."""
        if self.token == 0:
            raise ClosedError(f"wait: {self!r} is closed")
        for event in list(self._passed.values()):
            event.synchronize()
        return self.array
