"""Kernel arguments in every form that the bindings take, packed into the parameter block."""

from __future__ import annotations

import ctypes
from enum import Enum
from typing import Any

from pyferrum_kv.signature import Param, Signature
from pyferrum_kv.virtual.host import host_buffer
from pyferrum_kv.virtual.status import Refused

BUFFER_POINTER, BUFFER_SIZE, LAUNCH_PARAM_END = 1, 2, 0  # CU_LAUNCH_PARAM_*


def pack(signature: Signature, kernelParams: Any, extra: int) -> bytes:
    """The parameter block of a launch.

    kernelParams: None or 0; an int or a buffer: the address, or the contents, of a `void**`; or
    `(values, ctypes_types)`, whose sizes are compared with the PTX. `extra`: address of the
    CU_LAUNCH_PARAM_BUFFER form. Refused with INVALID_VALUE, naming the argument.
    """
    if kernelParams is None or (isinstance(kernelParams, int) and kernelParams == 0):
        if extra:
            return _from_extra(signature, extra)
        if signature.params:
            count = len(signature.params)
            raise Refused("INVALID_VALUE", f"{signature.entry} takes {count} arguments; got none")
        return b""
    if extra:
        raise Refused("INVALID_VALUE", "kernelParams and extra are both given; wanted one of them")
    if isinstance(kernelParams, tuple) and len(kernelParams) == 2:
        return _from_values(signature, *kernelParams)
    return _from_addresses(signature, kernelParams)


def _from_addresses(signature: Signature, argument: Any) -> bytes:
    """Read each argument where its `void*` points."""
    buffer = host_buffer(argument, 0)
    held = getattr(buffer.owner, "nbytes", None)
    count = len(signature.params)
    if held is not None and held < 8 * count:
        raise Refused(
            "INVALID_VALUE",
            f"{signature.entry} takes {count} arguments; the buffer has room for {held // 8}",
        )
    pointers = (ctypes.c_void_p * count).from_address(buffer.address)
    block = bytearray(signature.size_bytes)
    for index, (param, pointer) in enumerate(zip(signature.params, pointers, strict=True)):
        if not pointer:
            raise Refused(
                "INVALID_VALUE", f"argument {index} of {signature.entry} is a null pointer"
            )
        _place(block, param, ctypes.string_at(pointer, param.size_bytes))
    return bytes(block)


def _from_values(signature: Signature, values: Any, types: Any) -> bytes:
    """Pack values of stated C types; the real driver could not see a wrong count or size."""
    values, types = _sequence(values), _sequence(types)
    count = len(signature.params)
    if len(values) != len(types) or len(values) != count:
        raise Refused(
            "INVALID_VALUE",
            f"{signature.entry} takes {count} arguments; got {len(values)} values and "
            f"{len(types)} types",
        )
    block = bytearray(signature.size_bytes)
    for index, (param, value, ctype) in enumerate(
        zip(signature.params, values, types, strict=True)
    ):
        data = _bytes_of(value, ctype, param)
        if len(data) != param.size_bytes:
            kind = getattr(ctype, "__name__", type(value).__name__)
            raise Refused(
                "INVALID_VALUE",
                f"argument {index} of {signature.entry} is {kind} ({len(data)} bytes); the PTX "
                f"wants {param.size_bytes} bytes",
            )
        _place(block, param, data)
    return bytes(block)


def _bytes_of(value: Any, ctype: Any, param: Param) -> bytes:
    if ctype is None:
        if isinstance(value, Enum):
            return bytes(ctypes.c_int(int(value.value)))
        if hasattr(value, "getPtr"):
            return ctypes.string_at(int(value.getPtr()), param.size_bytes)
        return bytes(value)  # a ctypes value or structure
    if isinstance(value, ctype):
        return bytes(value)
    if hasattr(value, "getPtr") and ctype is ctypes.c_void_p:
        return bytes(ctype(int(value)))
    return bytes(ctype(value))


def _from_extra(signature: Signature, extra: int) -> bytes:
    """The CU_LAUNCH_PARAM_BUFFER form: a ready block and the address of its size."""
    words = (ctypes.c_size_t * 5).from_address(extra)
    fields: dict[int, int] = {}
    for at in (0, 2):
        if words[at] == LAUNCH_PARAM_END:
            break
        fields[words[at]] = words[at + 1]
    if set(fields) != {BUFFER_POINTER, BUFFER_SIZE}:
        raise Refused("INVALID_VALUE", "extra does not name a buffer and its size")
    size = ctypes.c_size_t.from_address(fields[BUFFER_SIZE]).value
    if size < signature.size_bytes:
        raise Refused(
            "INVALID_VALUE",
            f"{signature.entry} takes {signature.size_bytes} bytes of arguments; got {size}",
        )
    return ctypes.string_at(fields[BUFFER_POINTER], signature.size_bytes)


def _place(block: bytearray, param: Param, data: bytes) -> None:
    block[param.offset : param.offset + param.size_bytes] = data


def _sequence(thing: Any) -> tuple[Any, ...]:
    return tuple(thing) if isinstance(thing, tuple | list) else (thing,)
