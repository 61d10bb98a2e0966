"""Streams: create, order, query, host functions. Capture is in capture.py of this folder."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.submit import SubmitCalls
from pyferrum_kv.virtual.events import Event
from pyferrum_kv.virtual.objects import Stream
from pyferrum_kv.virtual.order import Access, Op, nothing
from pyferrum_kv.virtual.status import CUresult, Refused, code

ANYWHERE = 1 << 64
"""What a host function may read."""


class StreamCalls(SubmitCalls):
    """cuStream*, cuLaunchHostFunc."""

    @driver_call(1)
    def cuStreamCreate(self, Flags: int) -> Any:
        return self._new_stream(Flags, 0)

    @driver_call(1)
    def cuStreamCreateWithPriority(self, flags: int, priority: int) -> Any:
        return self._new_stream(flags, priority)

    def _new_stream(self, flags: int, priority: int) -> Any:
        if flags not in (0, 1):
            raise Refused("INVALID_VALUE", f"stream flags {flags}")
        context = self.machine.context()
        least, greatest = context.device.snapshot.stream_priorities
        priority = max(greatest, min(least, priority))
        lane = self.machine.order.new_lane()
        stream = Stream(self.machine.new_handle(), context, flags, priority, lane)
        context.streams.append(stream)
        return real.CUstream(self.machine.register(stream))

    @driver_call()
    def cuStreamDestroy(self, hStream: Any) -> None:
        stream = self._stream(hStream)
        if stream.handle not in self.machine.handles:
            raise Refused("INVALID_VALUE", "a default stream cannot be destroyed")
        if stream.capture:
            stream.capture.invalid = True
        # What was submitted still runs: the driver keeps it, and so does whoever waits for it.
        stream.context.streams.remove(stream)
        del self.machine.handles[stream.handle]

    @driver_call()
    def cuStreamSynchronize(self, hStream: Any) -> None:
        stream = self._stream(hStream)
        self._refuse_capturing(stream)
        self.machine.order.wait(self._tail(stream))
        self.machine.check_fault(stream.context)

    @driver_call()
    def cuStreamQuery(self, hStream: Any) -> None:
        stream = self._stream(hStream)
        self._refuse_capturing(stream)
        tail = self._tail(stream)
        if tail is None:
            return
        done = self.machine.order.poll(tail)
        self.machine.check_fault(stream.context)
        if not done:
            raise Refused("NOT_READY")
        self.machine.order.joined(tail)

    @driver_call()
    def cuStreamWaitEvent(self, hStream: Any, hEvent: Any, Flags: int) -> None:
        stream, event = self._stream(hStream), self.machine.lookup(hEvent, Event)
        if event.captured and event.captured.capture.active:
            event.captured.capture.join(stream, event.captured.nodes)
            return
        if stream.capture:
            stream.capture.invalid = True
            raise Refused("STREAM_CAPTURE_ISOLATION", "the event was recorded outside the capture")
        if event.work is not None:
            self.submit(stream, Op("event", "wait for an event", nothing), [event.work])

    @driver_call(1)
    def cuStreamGetFlags(self, hStream: Any) -> int:
        return self._stream(hStream).flags

    @driver_call(1)
    def cuStreamGetPriority(self, hStream: Any) -> int:
        return self._stream(hStream).priority

    @driver_call(1)
    def cuStreamGetCtx(self, hStream: Any) -> Any:
        return real.CUcontext(self._stream(hStream).context.handle)

    @driver_call(1)
    def cuStreamGetDevice(self, hStream: Any) -> Any:
        return real.CUdevice(self._stream(hStream).context.device.ordinal)

    @driver_call(1)
    def cuStreamGetId(self, hStream: Any) -> int:
        return self._stream(hStream).lane.number

    @driver_call()
    def cuStreamCopyAttributes(self, dst: Any, src: Any) -> None:
        self._stream(dst), self._stream(src)

    @driver_call()
    def cuStreamAttachMemAsync(self, hStream: Any, dptr: Any, length: int, flags: int) -> None:
        stream = self._stream(hStream)
        allocation = self._allocation(int(dptr))
        if allocation is None or allocation.kind != "managed":
            raise Refused("INVALID_VALUE", f"{int(dptr):#x} is no managed memory")
        self.submit(stream, Op("empty", "cuStreamAttachMemAsync", nothing))

    @driver_call()
    def cuLaunchHostFunc(self, hStream: Any, fn: Any, userData: Any) -> None:
        function, argument = int(fn), _address(userData)
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
        run = _host(lambda: call(argument))
        work = self.submit(self._stream(hStream), Op("host", "host function", run, (fn, userData)))
        if work is not None and not work.done:
            self.machine.will_read_host(work, 0, ANYWHERE)

    @driver_call()
    def cuStreamAddCallback(self, hStream: Any, callback: Any, userData: Any, flags: int) -> None:
        stream = self._stream(hStream)
        if stream.capture:
            stream.capture.invalid = True
            raise Refused("STREAM_CAPTURE_UNSUPPORTED", "callbacks cannot be captured")
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        call, argument = prototype(int(callback)), _address(userData)

        def run() -> None:
            fault = stream.context.fault
            call(stream.handle, int(code(fault.name) if fault else CUresult(0)), argument)

        self.submit(stream, Op("host", "stream callback", _host(run)))

    def _refuse_capturing(self, stream: Stream) -> None:
        if stream.capture:
            stream.capture.invalid = True
            raise Refused("STREAM_CAPTURE_UNSUPPORTED", "the stream is capturing")


def _host(call: Callable[[], object]) -> Callable[[], Sequence[Access]]:
    def run() -> Sequence[Access]:
        call()
        return ()

    return run


def _address(user_data: Any) -> int | None:
    if user_data is None or isinstance(user_data, int):
        return user_data
    return int(user_data.getPtr() if hasattr(user_data, "getPtr") else user_data)
