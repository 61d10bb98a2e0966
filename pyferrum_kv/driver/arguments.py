"""Arguments packed by the entry's own signature: a wrong one is an exception before the launch.

Each parameter becomes a writer, made once, that checks a value and writes it into its place of a
parameter block. Formats begin with "<": the native ones let 1e300 into a float32 as infinity.
"""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.driver.packer import Packer
from pyferrum_kv.dtypes import POINTEES, as_dtype, dtype_name, to_bfloat16
from pyferrum_kv.errors import ArgumentError, WrongContextError
from pyferrum_kv.signature import Param, Signature

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext

Writer = Callable[[Any, Any], None]
"""(block, value) -> checked and written, or an exception and nothing written."""

_INTEGERS = {1: "b", 2: "h", 4: "i", 8: "q"}
_FLOATS = {2: "<e", 4: "<f", 8: "<d"}


class ArgumentBlock:
    """The parameter block of one launch: values at their offsets, and the void** the driver reads.

    The driver copies the values during the launch call, so they may be rewritten when it returns.
    """

    __slots__ = (
        "_fixed",
        "_packer",
        "_pointers",
        "address",
        "arguments",
        "buffer",
        "context",
        "signature",
        "writers",
    )

    def __init__(
        self,
        context: CudaContext,
        signature: Signature,
        writers: tuple[Writer, ...],
        packer: Packer | None = None,
    ) -> None:
        self.context, self.signature, self.writers = context, signature, writers
        self._packer = packer
        count = len(signature.params)
        self.buffer = bytearray(max(signature.size_bytes, 1))
        self._fixed = (ctypes.c_char * len(self.buffer)).from_buffer(self.buffer)  # never moves now
        base = ctypes.addressof(self._fixed)
        self._pointers = (ctypes.c_void_p * count)(*(base + p.offset for p in signature.params))
        self.address = ctypes.addressof(self._pointers) if count else 0
        self.arguments: list[Any] = [None] * count

    def fill(self, arguments: tuple[Any, ...]) -> None:
        """Write all arguments and keep them, or raise and be of no use."""
        self.write_all(arguments)
        self.arguments[:] = arguments

    def write_all(self, arguments: Sequence[Any]) -> None:
        """Check and write all arguments; they are not kept."""
        if len(arguments) != len(self.writers):
            raise _wrong_count(self.signature, len(arguments))
        buffer = self.buffer
        if self._packer is not None and self._packer.pack(buffer, arguments):
            return
        for write, value in zip(self.writers, arguments, strict=True):
            write(buffer, value)

    def copy(self) -> ArgumentBlock:
        """An independent block with the same values."""
        twin = ArgumentBlock(self.context, self.signature, self.writers, self._packer)
        twin.buffer[:] = self.buffer
        twin.arguments[:] = self.arguments
        return twin

    def slices(self) -> Iterable[DeviceMemory]:
        """The arguments that point to memory."""
        return [value for value in self.arguments if isinstance(value, DeviceMemory)]


def position_of(signature: Signature, which: int | str) -> int:
    """Where a parameter stands: by its name, or by its position from 0."""
    count = len(signature.params)
    if isinstance(which, str):
        for position, param in enumerate(signature.params):
            if param.name == which:
                return position
    elif -count <= which < count:
        return which % count
    raise ArgumentError(f"{signature.entry}: no parameter {which!r}; it has {_listed(signature)}")


def writers_for(context: CudaContext, signature: Signature) -> tuple[Writer, ...]:
    """One writer a parameter."""
    makers = {"pointer": _pointer, "float": _float, "struct": _struct}
    return tuple(
        makers.get(param.kind, _integer)(context, signature, position, param)
        for position, param in enumerate(signature.params)
    )


def _integer(context: CudaContext, signature: Signature, position: int, param: Param) -> Writer:
    """`int`, `uint`, and `bits`: an integer of either sign, or an address."""
    bits, offset = 8 * param.size_bytes, param.offset
    low = 0 if param.kind == "uint" else -(1 << (bits - 1))
    high = (1 << (bits - 1)) - 1 if param.kind == "int" else (1 << bits) - 1
    code = _INTEGERS[param.size_bytes]
    signed, unsigned = struct.Struct("<" + code), struct.Struct("<" + code.upper())
    pack_into = unsigned.pack_into
    exact = {"int": "i", "uint": "u", "bits": "iufb"}[param.kind]
    pointer = (
        _pointer(context, signature, position, param)
        if param.kind == "bits" and param.size_bytes == 8
        else None
    )

    def write(block: Any, value: Any) -> None:
        if type(value) is int and 0 <= value <= high:  # nearly always
            pack_into(block, offset, value)
        elif pointer is not None and (value is None or isinstance(value, DeviceMemory)):
            pointer(block, value)
        elif isinstance(value, int):  # bool is an int, and means 0 or 1
            if not low <= value <= high:
                got = f"{value}; wanted {low} to {high}"
                raise _refused(signature, position, param, got, param.ctype or param.kind)
            (signed if value < 0 else unsigned).pack_into(block, offset, value)
        elif isinstance(value, np.generic) and not isinstance(value, np.void):
            if value.dtype.kind not in exact or value.dtype.itemsize != param.size_bytes:
                got = f"numpy {value.dtype}; pass int(value) to have its range checked"
                raise _refused(signature, position, param, got, param.ctype or param.kind)
            block[offset : offset + param.size_bytes] = value.tobytes()
        else:
            raise _refused(signature, position, param, _described(value))

    return write


def _float(context: CudaContext, signature: Signature, position: int, param: Param) -> Writer:
    size, offset = param.size_bytes, param.offset
    pack = struct.Struct(_FLOATS[size]).pack
    is_bfloat16 = param.ctype.endswith("bf16")

    def write(block: Any, value: Any) -> None:
        # np.float64 is a float, bool is an int
        if isinstance(value, (float, int)) and not isinstance(value, bool):
            try:
                if is_bfloat16:
                    block[offset : offset + 2] = to_bfloat16([value]).tobytes()
                else:
                    block[offset : offset + size] = pack(value)  # pack_into() clears, then refuses
            except OverflowError:
                got = f"{value!r}, which it cannot hold"
                raise _refused(signature, position, param, got, param.ctype or "float") from None
        elif isinstance(value, np.generic) and value.dtype.kind == "f" and not is_bfloat16:
            if value.dtype.itemsize != size:
                got = f"numpy {value.dtype}; pass float(value)"
                raise _refused(signature, position, param, got, param.ctype or f"float{8 * size}")
            block[offset : offset + size] = value.tobytes()
        else:
            raise _refused(signature, position, param, _described(value))

    return write


def _struct(context: CudaContext, signature: Signature, position: int, param: Param) -> Writer:
    """A struct by value: its bytes. One that is a float16 or bfloat16 also takes a number."""
    size, offset = param.size_bytes, param.offset
    half = _float(context, signature, position, param) if param.ctype in ("f16", "bf16") else None

    def write(block: Any, value: Any) -> None:
        if half is not None and isinstance(value, (float, int, np.float16)):
            half(block, value)
            return
        if isinstance(value, (bytes, bytearray, np.void, np.ndarray, ctypes.Structure)):
            data = value.tobytes() if isinstance(value, (np.void, np.ndarray)) else bytes(value)
            if len(data) == size:
                block[offset : offset + size] = data
                return
            got = f"{len(data)} bytes; wanted {size}"
            raise _refused(signature, position, param, got, param.ctype or "struct")
        raise _refused(signature, position, param, _described(value))

    return write


def _pointer(context: CudaContext, signature: Signature, position: int, param: Param) -> Writer:
    offset, pack_into = param.offset, struct.Struct("<Q").pack_into
    wanted = POINTEES.get(param.pointee)
    dtype = None if wanted is None else as_dtype(wanted)

    def write(block: Any, value: Any) -> None:
        if value is None:
            pack_into(block, offset, 0)
            return
        if not isinstance(value, DeviceMemory):
            raise _refused(signature, position, param, _described(value))
        # NumPy has one object a type; a name takes twenty times as long
        if value.dtype is not dtype and wanted is not None and dtype_name(value.dtype) != wanted:
            got = f"a slice of {dtype_name(value.dtype)}"
            raise _refused(signature, position, param, got, param.ctype or f"{param.pointee}*")
        if value.context is not context and not context.reaches(value.context):
            raise WrongContextError(
                f"{signature.entry}: argument {position + 1} '{param.name}' is of"
                f" {value.context!r}; wanted one of {context!r}, or enable_peer_access() first"
            )
        pack_into(block, offset, value.device_ptr)

    return write


def _described(value: Any) -> str:
    if isinstance(value, DeviceMemory):
        return f"a slice of {dtype_name(value.dtype)}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of {value.dtype}; copy it with stream.clone_htod()"
    if isinstance(value, np.generic):
        return f"numpy {value.dtype}"
    if isinstance(value, int):
        return f"int {value}; wrap an address with stream.slice_from_ptr()"
    return "None" if value is None else type(value).__name__


def _summary(signature: Signature) -> str:
    counts = Counter("pointers" if p.kind == "pointer" else p.kind for p in signature.params)
    if counts["pointers"] == 1:
        counts = Counter(
            {k.removesuffix("s") if k == "pointers" else k: n for k, n in counts.items()}
        )
    return ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none"


def _listed(signature: Signature) -> str:
    return ", ".join(repr(p.name) for p in signature.params) or "none"


def _takes(signature: Signature) -> str:
    count = len(signature.params)
    plural = "" if count == 1 else "s"
    return f"{signature.entry} takes {count} argument{plural} ({_summary(signature)})"


def _wrong_count(signature: Signature, got: int) -> ArgumentError:
    missing = ", ".join(repr(p.name) for p in signature.params[got:])
    return ArgumentError(
        f"{_takes(signature)}; got {got}" + (f", without {missing}" if missing else "")
    )


def _refused(
    signature: Signature, position: int, param: Param, got: str, wanted: str = ""
) -> ArgumentError:
    return ArgumentError(
        f"{_takes(signature)}; argument {position + 1} '{param.name}' is {wanted or param.kind},"
        f" got {got}"
    )
