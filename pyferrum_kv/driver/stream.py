"""CudaStream: an order of work. It makes slices, events, launches and graphs.

Everything that returns before it has happened says "asynchronous". A stream made by
ctx.new_stream() does not wait for the default stream, nor the other way round. After close() it
takes no new work; the driver's stream itself goes when the last slice allocated on it has been
freed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pyferrum_kv.driver.api import Api
from pyferrum_kv.driver.codes import NOT_READY
from pyferrum_kv.driver.copies import StreamCopies
from pyferrum_kv.driver.event import CudaEvent
from pyferrum_kv.driver.graph import Capture
from pyferrum_kv.driver.host_call import call_on_host
from pyferrum_kv.driver.launch import LaunchBuilder
from pyferrum_kv.driver.lifetime import Dependants
from pyferrum_kv.driver.memory import alignment_of, checked_size
from pyferrum_kv.driver.pool import MemoryPool
from pyferrum_kv.driver.slices import CudaSlice, adopted, allocate, borrowed
from pyferrum_kv.errors import ArgumentError, CaptureError, ClosedError, DriverError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext
    from pyferrum_kv.driver.function import CudaFunction


class CudaStream(StreamCopies):
    """A stream of a context. `anchor` keeps the driver's stream alive; slices hold it too."""

    def __init__(
        self, context: CudaContext, cu_stream: Any, what: str, anchor: object = None
    ) -> None:
        """Not called directly: ctx.new_stream(), default_stream(), external_stream(), ..."""
        self.context = context
        self.anchor = anchor
        self.is_closed = False
        self.dependants = Dependants()
        self.attachments: dict[Any, Any] = {}  # what higher layers keep as long as the stream lives
        self._cu_stream, self._what = cu_stream, what

    @property
    def cu_stream(self) -> Any:
        """The driver's CUstream; ClosedError after close()."""
        if self.is_closed:
            raise ClosedError(f"{self._what} is closed")
        return self._cu_stream

    @property
    def handle(self) -> int:
        """The CUstream as an integer; 1 is the default stream, 2 the per-thread one."""
        return int(self.cu_stream)

    def __cuda_stream__(self) -> tuple[int, int]:
        """(version, handle), as CUDA libraries for Python hand streams over."""
        return 0, self.handle

    # order

    def synchronize(self) -> None:
        """Wait until all work so far is done."""
        self.context.call("cuStreamSynchronize", self.cu_stream, on=self._what)

    @property
    def is_done(self) -> bool:
        """Whether all work so far is done; an error raises."""
        try:
            self.context.call("cuStreamQuery", self.cu_stream, on=self._what)
        except DriverError as error:
            if error.code != NOT_READY:
                raise
            return False
        return True

    def record_event(self, event: CudaEvent | None = None) -> CudaEvent:
        """Mark this point, with `event` or a new one; asynchronous."""
        return (event or CudaEvent(self.context)).record(self)

    def wait(self, other: CudaEvent | CudaStream) -> None:
        """Hold later work here back until `other` has passed; asynchronous."""
        if isinstance(other, CudaStream):
            self.join(other)
            return
        on = f"{self._what}, {other!r}"
        self.context.call("cuStreamWaitEvent", self.cu_stream, other.cu_event, 0, on=on)

    def join(self, other: CudaStream) -> None:
        """Hold later work here back until all work of `other` so far is done; asynchronous."""
        if other is not self:
            with CudaEvent(other.context) as event:
                self.wait(event.record(other))

    def fork(self, priority: int = 0) -> CudaStream:
        """A new stream that starts where this one is now; join() it back."""
        forked = self.context.new_stream(priority)
        forked.join(self)
        return forked

    # making

    def alloc(self, len: int, dtype: npt.DTypeLike, *, pool: MemoryPool | None = None) -> CudaSlice:
        """Allocate `len` elements of undefined value; asynchronous where the device has pools."""
        context = self.context
        if context.ledger.captures and self.capture_status != "none":
            raise CaptureError(
                f"alloc: {self!r} is capturing; allocate before, so that the memory outlives it"
            )
        if pool is None and context.has_async_alloc:
            pool = context.mem_pool()
        return allocate(self, len, dtype, pool.owned if pool is not None else None)

    def alloc_zeros(
        self, len: int, dtype: npt.DTypeLike, *, pool: MemoryPool | None = None
    ) -> CudaSlice:
        """Allocate `len` elements of zero bytes; asynchronous."""
        made = self.alloc(len, dtype, pool=pool)
        self.memset_zeros(made)
        return made

    def null(self, dtype: npt.DTypeLike) -> CudaSlice:
        """A slice of no elements at address 0."""
        return borrowed(self, 0, *checked_size("null", 0, dtype), None)

    def slice_from_ptr(
        self,
        ptr: int,
        len: int,
        dtype: npt.DTypeLike,
        owner: object = None,
        *,
        take_ownership: bool = False,
    ) -> CudaSlice:
        """A slice over memory of another library: borrowed, keeping `owner` alive.

        `take_ownership`: freed on this stream as if allocated by it; for what leak() gave up.
        """
        length, element = checked_size("slice_from_ptr", len, dtype)
        if ptr % alignment_of(element) or ptr < 0 or (ptr == 0 and length):
            raise ArgumentError(
                f"slice_from_ptr: ptr is {ptr:#x}; wanted an address aligned for {element}"
            )
        if not take_ownership:
            return borrowed(self, ptr, length, element, owner)
        is_async = self.context.has_async_alloc
        address = self.context.api.raw.CUdeviceptr(ptr)
        return adopted(self, address, length, element, is_async=is_async, keep=owner)

    def launch_builder(self, function: CudaFunction) -> LaunchBuilder:
        """Start a launch of `function` on this stream."""
        return LaunchBuilder(self, function)

    # capture

    def capture(self, mode: str = "thread_local") -> Capture:
        """`with stream.capture() as graph:` records the work of the block instead of running it.

        mode: "thread_local" lets other threads go on as usual, "global" forbids them what could
        disturb the capture, "relaxed" forbids nothing.
        """
        return Capture(self, mode)

    @property
    def capture_status(self) -> str:
        """ "none", "active", or "invalidated" by an error."""
        status = self.context.call("cuStreamIsCapturing", self.cu_stream, on=self._what)
        return ("none", "active", "invalidated")[int(status)]

    def call_on_host(self, function: Callable[[], None]) -> None:
        """Call `function` on a thread of the driver when the stream gets here; asynchronous.

        It must not call the driver. What it raises is recorded in ctx.deferred_errors().
        """
        call_on_host(self, function)

    # closing

    def close(self) -> None:
        """Take no more work. The default, per-thread and external streams stay what they are."""
        if self.is_closed or self.handle in (1, 2):
            return
        self.is_closed = True
        self.attachments.clear()
        self.dependants.invalidate(self._what)
        self.anchor = None  # the last slice's anchor, or this one, queues the driver's stream
        self.context.settle()

    def __enter__(self) -> CudaStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CudaStream {self._what}{', closed' if self.is_closed else ''}>"


def as_cu_stream(api: Api, stream: Any) -> Any:
    """A CUstream from a handle, or from an object with __cuda_stream__()."""
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        version, handle = protocol() if callable(protocol) else protocol
        if version != 0:
            raise ArgumentError(
                f"external_stream: __cuda_stream__ of {type(stream).__name__} is version {version};"
                " wanted 0"
            )
        stream = handle
    try:
        return api.raw.CUstream(int(stream))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"external_stream: stream is {type(stream).__name__}; wanted an integer handle, or an"
            " object with __cuda_stream__()"
        ) from error
