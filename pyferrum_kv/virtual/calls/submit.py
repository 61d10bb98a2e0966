"""What all asynchronous calls share: stream order, memory by address, capture's rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyferrum_kv.virtual.calls.base import Calls, default_stream
from pyferrum_kv.virtual.capture import GLOBAL, RELAXED, Capture
from pyferrum_kv.virtual.objects import Allocation, Context, Device, Stream
from pyferrum_kv.virtual.order import Op, Work
from pyferrum_kv.virtual.status import Refused


class SubmitCalls(Calls):
    """Base of the groups that submit work."""

    def submit(self, stream: Stream, op: Op, after: Iterable[Work] = ()) -> Work | None:
        """Put `op` into a stream, or into the graph that the stream is being captured to (None)."""
        if stream.capture:
            stream.capture.add(self.machine, stream, op)
            return None
        waits = [*after, *self._legacy_waits(stream)]
        return self.machine.order.submit(stream.lane, op, stream.context, waits)

    def _legacy_waits(self, stream: Stream) -> list[Work]:
        """The legacy default stream and the blocking streams wait for each other."""
        context = stream.context
        legacy = default_stream(self.machine, context)
        if stream is not legacy:
            return [legacy.lane.last] if stream.blocking and legacy.lane.last else []
        blocking = [s for s in (*context.streams, *context.per_thread.values()) if s.blocking]
        for other in blocking:
            if other.capture:
                other.capture.invalid = True
                raise Refused("STREAM_CAPTURE_IMPLICIT", "a blocking stream is capturing")
        return [s.lane.last for s in blocking if s.lane.last]

    def _tail(self, stream: Stream) -> Work | None:
        return stream.lane.last

    def _begin(self, op: Op) -> Work | None:
        """Submit `op` to the legacy default stream: synchronous calls without the host's part."""
        self._unsafe_while_capturing()
        return self.submit(default_stream(self.machine, self.machine.context()), op)

    def _now(self, op: Op) -> None:
        """Submit `op` to the legacy default stream and wait for it."""
        self.machine.order.wait(self._begin(op))
        self.machine.check_fault(self.machine.context())

    # capture's rules

    def _captures(self) -> list[Capture]:
        return [c for c in self.machine.captures if c.active]

    def _unsafe_while_capturing(self) -> None:
        """Refuse a call that a capture under way forbids; the capture is lost by it."""
        mode, thread = self.machine.thread_capture_mode, self.machine.thread_number()
        if mode == RELAXED:
            return
        for capture in self._captures():
            mine = capture.thread == thread and capture.mode != RELAXED
            if mine or (mode == GLOBAL and capture.mode == GLOBAL):
                capture.invalid = True
                raise Refused("STREAM_CAPTURE_UNSUPPORTED", "not while a stream is capturing")

    # memory by address

    def _device_of(self, address: int) -> Device | None:
        for device in self.machine.devices:
            if device.memory.find(address):
                return device
        return None

    def _allocation(self, address: int) -> Allocation | None:
        """The allocation that holds an address, on any device."""
        device = self._device_of(address)
        found = device.memory.find(address) if device else None
        return device.allocations.get(found.address) if device and found else None

    def _range(self, pointer: Any, num_bytes: int, context: Context | None = None) -> Device:
        """The device whose memory holds all of a range; refused as the driver refuses it."""
        address = int(pointer)
        device = self._device_of(address)
        found = device.memory.find(address) if device else None
        if device is None or found is None or address + num_bytes > found.end:
            home = context.device if context else self.machine.context().device
            where = (device or home).memory.describe(address)
            raise Refused("INVALID_VALUE", f"{num_bytes} bytes at {address:#x}: {where}")
        return device
