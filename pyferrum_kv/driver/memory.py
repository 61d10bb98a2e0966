"""What all memory shares: flat runs of one element type, owned by `Memory`, borrowed by CudaView.

`token` names an open object for ever: pointer, length, dtype and context behind it never change,
no later object gets it, and it is 0 from close() on. A cache keyed by tokens cannot meet a stale
slice.
"""

from __future__ import annotations

import itertools
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
    _len: int
    _ptr: int

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
        """Borrow elements [a, b). Bounds are checked, not clamped; -1 is the last element."""
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


class CudaView(DeviceMemory):
    """A part of an owner's memory, perhaps as another type. Borrows, and keeps the owner alive."""

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
