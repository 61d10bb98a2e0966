"""CudaSlice: device memory with an owner, freed in stream order.

A slice is freed on the stream it was allocated on, or on the one given to close(). Work on other
streams must come before that: join them, or say `x.used_on(other)`, and the free waits for `other`
as it is at that moment. Nothing is tracked that was not asked for, so a launch costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.driver.memory import Memory, checked_size

if TYPE_CHECKING:
    from pyferrum_kv.driver.stream import CudaStream


class CudaSlice(Memory):
    """Device memory of one stream. Owns it, unless made by stream.slice_from_ptr() or null()."""

    __slots__ = ("_free", "_guest")

    _free: FreeInStreamOrder | None
    _guest: object  # keeps somebody else's memory alive

    stream: CudaStream

    def used_on(self, stream: CudaStream) -> None:
        """The free will wait for what `stream` holds when the slice is given back."""
        if self._free is not None and stream is not self.stream:
            self._free.users.append((stream.cu_stream, stream.anchor))

    def close(self, stream: CudaStream | None = None) -> None:
        """Free in the order of `stream`, by default the one it was allocated on."""
        if self.token and stream is not None and self._free is not None:
            self._free.stream = (stream.cu_stream, stream.anchor)
        super().close()

    def leak(self) -> int:
        """Give up ownership: the slice closes, the memory stays. Returns the address."""
        ptr = self.device_ptr
        self._forget()
        if self._owned is not None:
            self._owned.disown()
        return ptr


class FreeInStreamOrder:
    """Gives an allocation back on a stream, after the streams named by used_on().

    Holds streams and pool by their anchors, so that they outlive the memory.
    """

    __slots__ = ("call", "is_async", "keep", "ptr", "stream", "users")

    def __init__(
        self, call: Callable[..., Any], ptr: Any, stream: CudaStream, is_async: bool, keep: object
    ) -> None:
        self.call, self.ptr, self.is_async, self.keep = call, ptr, is_async, keep
        self.stream: tuple[Any, object] = (stream.cu_stream, stream.anchor)
        self.users: list[tuple[Any, object]] = []

    def __call__(self) -> None:
        call, stream, on = self.call, self.stream[0], f"{int(self.ptr):#x}"
        for user, _ in self.users:
            event = call("cuEventCreate", 2, on="order of a free")  # CU_EVENT_DISABLE_TIMING
            try:
                call("cuEventRecord", event, user, on="order of a free")
                call("cuStreamWaitEvent", stream, event, 0, on="order of a free")
            finally:
                call("cuEventDestroy", event, on="order of a free")
        self.users.clear()
        if self.is_async:
            call("cuMemFreeAsync", self.ptr, stream, on=on)
        else:
            call("cuStreamSynchronize", stream, on=on)
            call("cuMemFree", self.ptr, on=on)


def allocate(
    stream: CudaStream, length: int, dtype: npt.DTypeLike, pool: Owned | None
) -> CudaSlice:
    """Allocate in the order of `stream`, from `pool` where the device has pools."""
    length, element = checked_size("alloc", length, dtype)
    context, num_bytes = stream.context, length * element.itemsize
    if num_bytes == 0:
        return borrowed(stream, 0, length, element, None)
    on = f"{num_bytes} bytes, {stream!r}"
    if pool is None:
        ptr = context.call("cuMemAlloc", num_bytes, on=on)
    else:
        cu_stream = stream.cu_stream
        ptr = context.call("cuMemAllocFromPoolAsync", num_bytes, pool.value, cu_stream, on=on)
    return adopted(stream, ptr, length, element, is_async=pool is not None, keep=pool)


def adopted(
    stream: CudaStream, ptr: Any, length: int, dtype: np.dtype[Any], *, is_async: bool, keep: object
) -> CudaSlice:
    """A slice that owns the allocation at `ptr`."""
    context = stream.context
    free = FreeInStreamOrder(context.api.call, ptr, stream, is_async, keep)
    owned = Owned(context.ledger, ptr, f"slice {int(ptr):#x}", free)
    made = CudaSlice(context, stream, int(ptr), length, dtype, owned)
    made._free, made._guest = free, None
    return made


def borrowed(
    stream: CudaStream, ptr: int, length: int, dtype: np.dtype[Any], guest: object
) -> CudaSlice:
    """A slice over memory that `guest`, or nobody we know, owns; close() only forgets it."""
    made = CudaSlice(stream.context, stream, ptr, length, dtype, None)
    made._free, made._guest = None, guest
    return made
