"""Events: record, wait, measure."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.submit import SubmitCalls
from pyferrum_kv.virtual.capture import CapturedEvent
from pyferrum_kv.virtual.events import DISABLE_TIMING, Event
from pyferrum_kv.virtual.order import Op, nothing
from pyferrum_kv.virtual.status import Refused


class EventCalls(SubmitCalls):
    """cuEvent*. Times are this computer's own: they say nothing about a GPU."""

    @driver_call(1)
    def cuEventCreate(self, Flags: int) -> Any:
        if Flags & ~7:
            raise Refused("INVALID_VALUE", f"Flags is {Flags:#x}")
        context = self.machine.context()
        event = Event(self.machine.new_handle(), context, Flags)
        context.owned[event.handle] = event
        return real.CUevent(self.machine.register(event))

    @driver_call()
    def cuEventDestroy(self, hEvent: Any) -> None:
        event = self._event(hEvent)
        event.context.owned.pop(event.handle, None)
        del self.machine.handles[event.handle]

    @driver_call()
    def cuEventRecord(self, hEvent: Any, hStream: Any) -> None:
        self._record(hEvent, hStream)

    @driver_call()
    def cuEventRecordWithFlags(self, hEvent: Any, hStream: Any, flags: int) -> None:
        self._record(hEvent, hStream)

    def _record(self, hEvent: Any, hStream: Any) -> None:
        event, stream = self._event(hEvent), self._stream(hStream)
        if event.context is not stream.context:
            raise Refused("INVALID_HANDLE", "the event and the stream are of two contexts")
        if stream.capture:
            tail = list(stream.capture.tails[stream])
            event.captured, event.work = CapturedEvent(stream.capture, tail), None
            return
        event.captured = None
        event.work = self.submit(stream, Op("event", "event record", nothing))

    @driver_call()
    def cuEventQuery(self, hEvent: Any) -> None:
        event = self._outside_capture(hEvent)
        if event.work is None:
            return
        done = self.machine.order.poll(event.work)
        self.machine.check_fault(event.context)
        if not done:
            raise Refused("NOT_READY")
        self.machine.order.joined(event.work)

    @driver_call()
    def cuEventSynchronize(self, hEvent: Any) -> None:
        event = self._outside_capture(hEvent)
        self.machine.order.wait(event.work)
        self.machine.check_fault(event.context)

    def _elapsed(self, hStart: Any, hEnd: Any) -> float:
        start, end = self._outside_capture(hStart), self._outside_capture(hEnd)
        if (start.flags | end.flags) & DISABLE_TIMING:
            raise Refused("INVALID_HANDLE", "an event was made without timing")
        if start.work is None or end.work is None:
            raise Refused("INVALID_HANDLE", "an event was not recorded")
        if not (start.work.done and end.work.done):
            raise Refused("NOT_READY")
        return (end.work.finished_at - start.work.finished_at) * 1e3

    @driver_call(1)
    def cuEventElapsedTime(self, hStart: Any, hEnd: Any) -> float:
        return self._elapsed(hStart, hEnd)

    def _event(self, handle: Any) -> Event:
        return self.machine.lookup(handle, Event)

    def _outside_capture(self, handle: Any) -> Event:
        event = self._event(handle)
        if event.captured:
            raise Refused("CAPTURED_EVENT", "the event was last recorded in a capturing stream")
        return event
