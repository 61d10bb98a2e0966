"""Copies and fills, in stream order: the part of CudaStream that moves bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.driver.pinned import PinnedSlice
from pyferrum_kv.driver.slices import CudaSlice
from pyferrum_kv.dtypes import as_dtype, dtype_name
from pyferrum_kv.errors import ArgumentError, CaptureError, WrongContextError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext

Host = npt.NDArray[Any] | PinnedSlice


class StreamCopies:
    """Names say the direction: h is the host, d the device."""

    context: CudaContext

    @property
    def cu_stream(self) -> Any:
        raise NotImplementedError

    def alloc(self, len: int, dtype: npt.DTypeLike) -> CudaSlice:
        raise NotImplementedError

    def synchronize(self) -> None:
        raise NotImplementedError

    def clone_htod(self, src: npt.ArrayLike | PinnedSlice) -> CudaSlice:
        """Allocate, and copy from the host; asynchronous."""
        host = src if isinstance(src, PinnedSlice) else np.ascontiguousarray(src)
        length = len(host) if isinstance(host, PinnedSlice) else host.size
        dst = self.alloc(length, host.dtype)
        self.memcpy_htod(host, dst)
        return dst

    def memcpy_htod(self, src: Host, dst: DeviceMemory) -> None:
        """Copy from the host; asynchronous.

        An array may change as soon as this returns, pinned memory after its wait().
        """
        if not isinstance(src, PinnedSlice):
            src = np.ascontiguousarray(src)
        self._match("memcpy_htod", src, dst)
        self._own("memcpy_htod", dst)
        if not dst.num_bytes:
            return
        address = self._host_address("memcpy_htod", src)
        args = (dst.device_ptr, address, dst.num_bytes, self.cu_stream)
        self.context.call("cuMemcpyHtoDAsync", *args, on=f"{dst!r} on {self!r}")
        self._used(src, dst)

    def clone_dtoh(self, src: DeviceMemory) -> npt.NDArray[Any]:
        """Copy to a new array; waits for the stream."""
        out = np.empty(len(src), src.dtype)
        self.memcpy_dtoh(src, out)
        return out

    def memcpy_dtoh(self, src: DeviceMemory, dst: Host) -> None:
        """Copy to the host; waits for the stream, but for pinned memory: that has a wait()."""
        if isinstance(dst, np.ndarray) and not (dst.flags.c_contiguous and dst.flags.writeable):
            raise ArgumentError(
                "memcpy_dtoh: dst is read-only or not contiguous; wanted a writable C-ordered array"
            )
        self._match("memcpy_dtoh", src, dst)
        self._own("memcpy_dtoh", src)
        if not src.num_bytes:
            return
        address = self._host_address("memcpy_dtoh", dst)
        args = (address, src.device_ptr, src.num_bytes, self.cu_stream)
        self.context.call("cuMemcpyDtoHAsync", *args, on=f"{src!r} on {self!r}")
        self._used(dst, src)
        if not isinstance(dst, PinnedSlice):
            self.synchronize()

    def clone_dtod(self, src: DeviceMemory) -> CudaSlice:
        """Allocate, and copy on the device; asynchronous."""
        dst = self.alloc(len(src), src.dtype)
        self.memcpy_dtod(src, dst)
        return dst

    def memcpy_dtod(self, src: DeviceMemory, dst: DeviceMemory) -> None:
        """Copy on the device, or from another one after its stream; asynchronous.

        Within a context, order with the stream that fills `src` is the caller's: wait for it.
        """
        self._match("memcpy_dtod", src, dst)
        self._own("memcpy_dtod", dst)
        if not src.num_bytes:
            return
        on = f"{src!r} to {dst!r} on {self!r}"
        if src.context is dst.context:
            args = (dst.device_ptr, src.device_ptr, src.num_bytes, self.cu_stream)
            self.context.call("cuMemcpyDtoDAsync", *args, on=on)
        else:
            if src.stream is not None:
                self._after(src)
            raw = self.context.api.raw
            contexts = raw.CUcontext(dst.context.handle), raw.CUcontext(src.context.handle)
            places = (dst.device_ptr, contexts[0], src.device_ptr, contexts[1])
            sized = (src.num_bytes, self.cu_stream)
            self.context.call("cuMemcpyPeerAsync", *places, *sized, on=on)
        self._used(src, dst)

    def _after(self, src: DeviceMemory) -> None:
        """Make this stream wait for the stream of a slice of another context."""
        assert src.stream is not None
        with src.context.new_event() as event:
            event.record(src.stream)
            self.context.call(
                "cuStreamWaitEvent", self.cu_stream, event.cu_event, 0, on=f"{self!r}"
            )

    def memset_zeros(self, dst: DeviceMemory) -> None:
        """Fill with zero bytes; asynchronous."""
        self._own("memset_zeros", dst)
        if dst.num_bytes:
            args = (dst.device_ptr, 0, dst.num_bytes, self.cu_stream)
            self.context.call("cuMemsetD8Async", *args, on=f"{dst!r} on {self!r}")
            self._used(dst)

    def memset(self, dst: DeviceMemory, value: Any) -> None:
        """Fill with one element of 1, 2 or 4 bytes, or of 8 equal halves; asynchronous."""
        self._own("memset", dst)
        bits, width = _pattern(dst, value)
        if dst.num_bytes:
            args = (dst.device_ptr, bits, dst.num_bytes // width, self.cu_stream)
            call = {1: "cuMemsetD8Async", 2: "cuMemsetD16Async", 4: "cuMemsetD32Async"}[width]
            self.context.call(call, *args, on=f"{dst!r}, {value!r} on {self!r}")
            self._used(dst)

    def _own(self, operation: str, memory: DeviceMemory) -> None:
        if memory.context is not self.context and not isinstance(memory, PinnedSlice):
            raise WrongContextError(
                f"{operation}: {memory!r} is of {memory.context!r}, {self!r} of {self.context!r}"
            )

    def _match(self, operation: str, src: Any, dst: Any) -> None:
        n_src = src.size if isinstance(src, np.ndarray) else len(src)
        n_dst = dst.size if isinstance(dst, np.ndarray) else len(dst)
        src_dtype, dst_dtype = as_dtype(src.dtype), as_dtype(dst.dtype)
        if n_src != n_dst or src_dtype != dst_dtype:
            raise ArgumentError(
                f"{operation}: src is {dtype_name(src_dtype)}[{n_src}],"
                f" dst {dtype_name(dst_dtype)}[{n_dst}]; wanted the same"
            )

    def _host_address(self, operation: str, host: Host) -> int:
        if isinstance(host, PinnedSlice):
            return host.device_ptr  # one address for host and device
        if self.context.ledger.captures:
            raise CaptureError(
                f"{operation}: pageable memory and a capture runs; a replay would use an array"
                " that may be gone; use ctx.alloc_pinned()"
            )
        return int(host.ctypes.data)

    def _used(self, *used: Any) -> None:
        ledger = self.context.ledger
        if ledger.captures:
            ledger.keep(used)
            return
        for thing in used:
            if isinstance(thing, PinnedSlice):
                thing.copied_on(self)  # type: ignore[arg-type]


def _pattern(dst: DeviceMemory, value: Any) -> tuple[int, int]:
    """The bits to repeat, and their width in bytes."""
    try:
        data = np.asarray(value).astype(dst.dtype).tobytes()
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"memset: {value!r} is no {dtype_name(dst.dtype)}: {error}") from error
    for width in (1, 2, 4):
        if len(data) % width == 0 and data == data[:width] * (len(data) // width):
            return int.from_bytes(data[:width], "little"), width
    raise ArgumentError(
        f"memset: {value!r} of {dtype_name(dst.dtype)} does not repeat within 4 bytes;"
        " fill it with a copy or a kernel"
    )
