"""Device memory: CudaSlice owns, CudaView borrows; both are flat runs of one element type.

A slice is freed in stream order, on the stream it was allocated on or on the one given to close(). Work on
other streams must come before that: join them, or say `x.used_on(other)`, and the free waits for
`other` as it is at that moment. Nothing is tracked that was not asked for, so a launch costs nothing.

`token` names an open object for ever: pointer, length, dtype and context behind it never change, no
later object gets it, and it is 0 from close() on. A cache keyed by tokens cannot meet a stale slice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.driver.lifetime import Dependants, Owned
from pyferrum_kv.dtypes import as_dtype, dtype_name
from pyferrum_kv.errors import ArgumentError, ClosedError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext
    from pyferrum_kv.driver.stream import CudaStream

_TOKENS = itertools.count(1)


class DeviceMemory:
    """What slices and views share: `len(x)` elements of `x.dtype` at `x.device_ptr`."""

    __slots__ = ("__weakref__", "_len", "_ptr", "context", "dtype", "stream")

    context: CudaContext
    stream: CudaStream | None
    dtype: np.dtype[Any]

    @property
    def root(self) -> Memory:
        """The owner of the memory; of an owner, itself."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._len

    def __bool__(self) -> bool:
        return True  # an empty slice is still a slice: `if x` must not depend on its length

    @property
    def num_bytes(self) -> int:
        return self._len * self.dtype.itemsize

    @property
    def device_ptr(self) -> int:
        """The address on the device; ClosedError once the owner is closed."""
        if self.root.token == 0:
            raise ClosedError(f"device_ptr: {self!r} is closed")
        return self._ptr

    @property
    def is_closed(self) -> bool:
        return self.root.token == 0

    def __getitem__(self, part: slice) -> CudaView:
        """Borrow elements [a, b). Bounds are checked, not clamped; negative ones count from the end."""
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise ArgumentError(f"{self!r}[{part!r}]: wanted a slice x[a:b] of step 1")
        n = self._len
        start = 0 if part.start is None else int(part.start)
        stop = n if part.stop is None else int(part.stop)
        start, stop = start + n if start < 0 else start, stop + n if stop < 0 else stop
        if not 0 <= start <= stop <= n:
            raise ArgumentError(
                f"{self!r}[{part.start}:{part.stop}]: wanted 0 <= start <= stop <= {n}"
            )
        return CudaView(
            self.root, self._ptr + start * self.dtype.itemsize, stop - start, self.dtype
        )

    def split_at(self, index: int) -> tuple[CudaView, CudaView]:
        """Borrow the two parts before and from element `index`."""
        return self[:index], self[index:]

    def view(self, dtype: npt.DTypeLike) -> CudaView:
        """Borrow the same bytes as elements of `dtype`; size and alignment must fit."""
        wanted = as_dtype(dtype)
        name, size = dtype_name(wanted), wanted.itemsize
        if size == 0 or self.num_bytes % size:
            raise ArgumentError(f"view: {self!r} has {self.num_bytes} bytes; wanted whole {name}s")
        if self._ptr % alignment_of(wanted):
            raise ArgumentError(f"view: {self!r} at {self._ptr:#x} is not aligned for {name}")
        return CudaView(self.root, self._ptr, self.num_bytes // size, wanted)

    def __repr__(self) -> str:
        closed = ", closed" if self.is_closed else ""
        return f"<{type(self).__name__} {dtype_name(self.dtype)}[{self._len}]{closed}>"


class Memory(DeviceMemory):
    """Memory with an owner's rights: a token, a handle to give back, and dependants to tell."""

    __slots__ = ("_dependants", "_owned", "token")

    def __init__(
        self,
        context: CudaContext,
        stream: CudaStream | None,
        ptr: int,
        length: int,
        dtype: np.dtype[Any],
        owned: Owned | None,
    ) -> None:
        self.context, self.stream = context, stream
        self.dtype, self._len, self._ptr = dtype, length, ptr
        self.token = next(_TOKENS)
        self._owned = owned
        self._dependants: Dependants | None = None

    @property
    def root(self) -> Memory:
        return self

    @property
    def dependants(self) -> Dependants:
        """Who must hear of close(): prepared launches."""
        if self._dependants is None:
            self._dependants = Dependants()
        return self._dependants

    def _forget(self) -> None:
        self.token = 0
        if self._dependants is not None:
            self._dependants.invalidate(f"{self!r}, an argument of it,")

    def close(self) -> None:
        """Give the memory back; closing twice is closing once."""
        if self.token:
            self._forget()
            if self._owned is not None:
                self.context.give_back(self._owned)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


class CudaView(DeviceMemory):
    """A part of somebody's memory, perhaps read as another type. Borrows, and keeps the owner alive."""

    __slots__ = ("_root", "_token")

    def __init__(self, root: Memory, ptr: int, length: int, dtype: np.dtype[Any]) -> None:
        self._root = root
        self.context, self.stream = root.context, root.stream
        self.dtype, self._len, self._ptr = dtype, length, ptr
        self._token = next(_TOKENS)

    @property
    def root(self) -> Memory:
        return self._root

    @property
    def token(self) -> int:
        """This view's own; 0 once the owner is closed."""
        return self._token if self._root.token else 0


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


def checked_size(operation: str, length: int, dtype: npt.DTypeLike) -> tuple[int, np.dtype[Any]]:
    """Length and element type of an allocation, or ArgumentError."""
    element = as_dtype(dtype)
    if element.itemsize == 0 or element.hasobject:
        raise ArgumentError(f"{operation}: dtype is {element}; wanted one of fixed size")
    if isinstance(length, (bool, float)) or not 0 <= int(length) * element.itemsize < 1 << 63:
        raise ArgumentError(
            f"{operation}: len is {length!r} of {dtype_name(element)}; wanted 0 to 2**63 bytes"
        )
    return int(length), element


def alignment_of(dtype: np.dtype[Any]) -> int:
    """What a device load of `dtype` needs; a structured 2-byte type such as bfloat16 needs 2."""
    size = dtype.itemsize
    return min(size, 16) if size & (size - 1) == 0 else dtype.alignment


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
