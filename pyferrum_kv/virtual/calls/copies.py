"""Copies and fills.

A synchronous one is the asynchronous one on the legacy default stream, and then a wait if the host
takes part; within the device the call only begins it, and non-blocking streams are not ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.submit import SubmitCalls
from pyferrum_kv.virtual.host import HostBuffer, host_buffer, poison_host, read_host, write_host
from pyferrum_kv.virtual.order import Access, Op, nothing
from pyferrum_kv.virtual.status import Refused


class CopyCalls(SubmitCalls):
    """cuMemcpy*, cuMemset*."""

    # host to device

    @driver_call()
    def cuMemcpyHtoD(self, dstDevice: Any, srcHost: Any, ByteCount: int) -> None:
        self._now(self._upload(dstDevice, srcHost, ByteCount, snapshot=False))

    @driver_call()
    def cuMemcpyHtoDAsync(self, dstDevice: Any, srcHost: Any, ByteCount: int, hStream: Any) -> None:
        stream = self._stream(hStream)
        op = self._upload(dstDevice, srcHost, ByteCount, snapshot=stream.capture is None)
        self._reads_host(self.submit(stream, op), host_buffer(srcHost, 0).address, ByteCount)

    def _upload(self, target: Any, source: Any, num_bytes: int, *, snapshot: bool) -> Op:
        """Pageable bytes are taken at the call, as the driver stages them; pinned ones later."""
        buffer = _host_range(source, num_bytes)
        if num_bytes == 0:
            return Op("empty", "empty copy", nothing)
        memory, address = self._range(target, num_bytes).memory, int(target)
        accesses = [Access(address, address + num_bytes, True)]
        pinned = self._page_locked(buffer.address)
        staged = read_host(buffer.address, num_bytes) if snapshot and not pinned else None

        def run() -> Sequence[Access]:
            data = read_host(buffer.address, num_bytes) if staged is None else staged
            memory.write(address, data, what="cuMemcpyHtoD")
            return accesses

        return Op("memcpy", f"cuMemcpyHtoD of {num_bytes} bytes", run, buffer.owner)

    # device to host

    @driver_call()
    def cuMemcpyDtoH(self, dstHost: Any, srcDevice: Any, ByteCount: int) -> None:
        self._now(self._download(dstHost, srcDevice, ByteCount))

    @driver_call()
    def cuMemcpyDtoHAsync(self, dstHost: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> None:
        """Until the stream is synchronised the destination holds 0xA5.

        Pageable memory given as a bare address is written before the call returns, as the driver
        does: nothing could keep it alive until later.
        """
        stream = self._stream(hStream)
        op = self._download(dstHost, srcDevice, ByteCount)
        work = self.submit(stream, op)
        buffer = host_buffer(dstHost, ByteCount)
        if work is None or work.done or ByteCount == 0:
            return
        if buffer.owner is None and not self._page_locked(buffer.address):
            self.machine.order.run(work)
        elif not self.machine.host_is_read(buffer.address, ByteCount):
            poison_host(buffer.address, ByteCount)

    def _download(self, target: Any, source: Any, num_bytes: int) -> Op:
        buffer = _host_range(target, num_bytes)
        if num_bytes == 0:
            return Op("empty", "empty copy", nothing)
        memory, address = self._range(source, num_bytes).memory, int(source)
        accesses = [Access(address, address + num_bytes, False)]

        def run() -> Sequence[Access]:
            write_host(buffer.address, memory.read(address, num_bytes, what="cuMemcpyDtoH"))
            return accesses

        return Op("memcpy", f"cuMemcpyDtoH of {num_bytes} bytes", run, buffer.owner)

    # device to device

    @driver_call()
    def cuMemcpyDtoD(self, dstDevice: Any, srcDevice: Any, ByteCount: int) -> None:
        self._begin(self._move(dstDevice, srcDevice, ByteCount))

    @driver_call()
    def cuMemcpyDtoDAsync(
        self, dstDevice: Any, srcDevice: Any, ByteCount: int, hStream: Any
    ) -> None:
        self.submit(self._stream(hStream), self._move(dstDevice, srcDevice, ByteCount))

    @driver_call()
    def cuMemcpyPeer(
        self, dstDevice: Any, dstContext: Any, srcDevice: Any, srcContext: Any, ByteCount: int
    ) -> None:
        """Ordered with all that both contexts were given before and will be given after."""
        for context in (self._context(dstContext), self._context(srcContext)):
            for work in self.machine.order.pending(context):
                self.machine.order.wait(work)
        self._now(self._move(dstDevice, srcDevice, ByteCount))

    @driver_call()
    def cuMemcpyPeerAsync(
        self,
        dstDevice: Any,
        dstContext: Any,
        srcDevice: Any,
        srcContext: Any,
        ByteCount: int,
        hStream: Any,
    ) -> None:
        self._context(dstContext), self._context(srcContext)
        self.submit(self._stream(hStream), self._move(dstDevice, srcDevice, ByteCount))

    @driver_call()
    def cuMemcpy(self, dst: Any, src: Any, ByteCount: int) -> None:
        self._now(self._any(dst, src, ByteCount))

    @driver_call()
    def cuMemcpyAsync(self, dst: Any, src: Any, ByteCount: int, hStream: Any) -> None:
        self.submit(self._stream(hStream), self._any(dst, src, ByteCount))

    def _any(self, target: Any, source: Any, num_bytes: int) -> Op:
        """A copy between unified addresses; an address that no device knows is the host's."""
        to, at = (self._device_of(int(p)) for p in (target, source))
        if to and at:
            return self._move(target, source, num_bytes)
        if to:
            return self._upload(target, int(source), num_bytes, snapshot=True)
        if at:
            return self._download(int(target), source, num_bytes)
        raise Refused("INVALID_VALUE", "neither address is the device's; wanted one that is")

    def _move(self, target: Any, source: Any, num_bytes: int) -> Op:
        if num_bytes == 0:
            return Op("empty", "empty copy", nothing)
        to, at = self._range(target, num_bytes).memory, self._range(source, num_bytes).memory
        low, high = int(source), int(target)
        accesses = [Access(low, low + num_bytes, False), Access(high, high + num_bytes, True)]

        def run() -> Sequence[Access]:
            to.copy_from(at, high, low, num_bytes, what="cuMemcpyDtoD")
            return accesses

        return Op("memcpy", f"cuMemcpyDtoD of {num_bytes} bytes", run)

    # fills

    @driver_call()
    def cuMemsetD8(self, dstDevice: Any, uc: int, N: int) -> None:
        self._begin(self._fill(dstDevice, uc, 1, N))

    @driver_call()
    def cuMemsetD16(self, dstDevice: Any, us: int, N: int) -> None:
        self._begin(self._fill(dstDevice, us, 2, N))

    @driver_call()
    def cuMemsetD32(self, dstDevice: Any, ui: int, N: int) -> None:
        self._begin(self._fill(dstDevice, ui, 4, N))

    @driver_call()
    def cuMemsetD8Async(self, dstDevice: Any, uc: int, N: int, hStream: Any) -> None:
        self.submit(self._stream(hStream), self._fill(dstDevice, uc, 1, N))

    @driver_call()
    def cuMemsetD16Async(self, dstDevice: Any, us: int, N: int, hStream: Any) -> None:
        self.submit(self._stream(hStream), self._fill(dstDevice, us, 2, N))

    @driver_call()
    def cuMemsetD32Async(self, dstDevice: Any, ui: int, N: int, hStream: Any) -> None:
        self.submit(self._stream(hStream), self._fill(dstDevice, ui, 4, N))

    def _fill(self, target: Any, value: int, width: int, count: int) -> Op:
        if not 0 <= value < 1 << 8 * width:
            raise OverflowError(f"value {value} does not fit in {width} unsigned bytes")
        address, num_bytes = int(target), width * count
        if num_bytes == 0:
            return Op("empty", "empty fill", nothing)
        if address % width:
            raise Refused("INVALID_VALUE", f"{address:#x} is not aligned to {width} bytes")
        memory = self._range(target, num_bytes).memory
        pattern, accesses = (
            value.to_bytes(width, "little"),
            [Access(address, address + num_bytes, True)],
        )

        def run() -> Sequence[Access]:
            memory.fill(address, pattern, count, what=f"cuMemsetD{8 * width}")
            return accesses

        return Op("memset", f"cuMemsetD{8 * width} of {num_bytes} bytes", run)

    # host memory under way

    def _page_locked(self, address: int) -> bool:
        return self._device_of(address) is not None or any(
            r.covers(address) for r in self.machine.registered.values()
        )

    def _reads_host(self, work: Any, address: int, num_bytes: int) -> None:
        if work is not None and not work.done:
            self.machine.will_read_host(work, address, num_bytes)


def _host_range(argument: Any, num_bytes: int) -> HostBuffer:
    """The host side of a copy; refused when the buffer is shorter than the copy."""
    buffer = host_buffer(argument, num_bytes)
    if num_bytes and not buffer.address:
        raise Refused("INVALID_VALUE", "the host pointer is null")
    held = getattr(buffer.owner, "nbytes", num_bytes)
    if held < num_bytes:
        raise Refused("INVALID_VALUE", f"copy of {num_bytes} bytes; the host buffer holds {held}")
    return buffer
