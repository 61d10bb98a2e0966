"""CudaEvent: a point in a stream, to wait for or to measure from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.codes import NOT_READY
from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.errors import ArgumentError, ClosedError, DriverError, WrongContextError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext
    from pyferrum_kv.driver.stream import CudaStream

_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2


class CudaEvent:
    """An event, by ctx.new_event() or stream.record_event(). Owns its handle."""

    def __init__(self, context: CudaContext, timing: bool = False) -> None:
        self.context = context
        self.timing = timing
        flags = 0 if timing else _DISABLE_TIMING
        handle = context.call("cuEventCreate", flags, on="timing" if timing else "no timing")
        what, call = f"event {int(handle):#x}", context.api.call
        self._what = what
        self._owned = Owned(
            context.ledger, handle, what, lambda: call("cuEventDestroy", handle, on=what)
        )

    @property
    def is_closed(self) -> bool:
        return self._owned.is_closed

    @property
    def cu_event(self) -> Any:
        """The driver's CUevent; ClosedError after close()."""
        if self._owned.is_closed:
            raise ClosedError(f"{self._what} is closed")
        return self._owned.value

    @property
    def handle(self) -> int:
        return int(self.cu_event)

    def record(self, stream: CudaStream) -> CudaEvent:
        """Mark this point of `stream`; returns the event."""
        if stream.context is not self.context:
            raise WrongContextError(
                f"event.record: the event is of {self.context!r}, the stream of {stream.context!r}"
            )
        event, on = self.cu_event, f"{self._what}, {stream!r}"
        self.context.call("cuEventRecord", event, stream.cu_stream, on=on)
        if self.context.ledger.captures:
            self.context.ledger.keep((self,))
        return self

    def synchronize(self) -> None:
        """Wait until the stream has passed the event."""
        self.context.call("cuEventSynchronize", self.cu_event, on=self._what)

    @property
    def is_done(self) -> bool:
        """Whether the stream has passed the event. An error raises; it is not "not yet"."""
        try:
            self.context.call("cuEventQuery", self.cu_event, on=self._what)
        except DriverError as error:
            if error.code != NOT_READY:
                raise
            return False
        return True

    def elapsed_ms(self, end: CudaEvent) -> float:
        """Milliseconds from this event to `end`; both timed and passed."""
        for which, event in (("start", self), ("end", end)):
            if not event.timing:
                raise ArgumentError(
                    f"elapsed_ms: {which} event keeps no time; wanted ctx.new_event(timing=True)"
                )
        on = f"{self._what}, {end._what}"
        return float(self.context.call("cuEventElapsedTime", self.cu_event, end.cu_event, on=on))

    def __sub__(self, start: CudaEvent) -> float:
        """`end - start` in milliseconds."""
        return start.elapsed_ms(self)

    def close(self) -> None:
        self.context.give_back(self._owned)

    def __enter__(self) -> CudaEvent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CudaEvent {self._what}{', timed' if self.timing else ''}>"
