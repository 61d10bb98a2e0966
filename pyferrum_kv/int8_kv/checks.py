"""Argument checks, before any launch: `operation: argument is value; wanted ...`."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from pyferrum_kv.driver.memory import CudaView, DeviceMemory, Memory
from pyferrum_kv.dtypes import bfloat16, dtype_name
from pyferrum_kv.errors import ArgumentError, ClosedError, WrongContextError

DeviceSlice: TypeAlias = Memory | CudaView
"""What is accepted as a slice: it owns or borrows device memory, and has a token."""

FLOAT16 = np.dtype(np.float16)
HALVES = (FLOAT16, bfloat16)
INT8, INT32 = np.dtype(np.int8), np.dtype(np.int32)
FLOAT32, UINT32 = np.dtype(np.float32), np.dtype(np.uint32)

MAX_INT32 = 2**31 - 1
MAX_KV_LEN = 2**30
"""Token positions stay clear of the end of int32, so that a kernel may add a tile to one."""


def check_int(operation: str, name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an int within low..high."""
    try:
        number = operator.index(value)
    except TypeError:
        got = f"{name} is {value!r}"
        raise ArgumentError(f"{operation}: {got}; wanted an integer {low} to {high}") from None
    if not low <= number <= high:
        raise ArgumentError(f"{operation}: {name} is {number}; wanted {low} to {high}")
    return number


def check_float(operation: str, name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float within low..high; NaN is refused."""
    if isinstance(value, (int, float, np.floating, np.integer)) and low <= value <= high:
        return float(value)
    raise ArgumentError(f"{operation}: {name} is {value!r}; wanted a number {low:g} to {high:g}")


def check_head_dim(operation: str, head_dim: Any) -> int:
    """head_dim is a multiple of 8 up to 256."""
    number = check_int(operation, "head_dim", head_dim, 8, 256)
    if number % 8:
        raise ArgumentError(
            f"{operation}: head_dim is {number}; wanted a multiple of 8 from 8 to 256"
        )
    return number


def check_heads(operation: str, num_q_heads: Any, num_kv_heads: Any) -> tuple[int, int]:
    """Every KV head serves the same number of query heads."""
    q_heads = check_int(operation, "num_q_heads", num_q_heads, 1, MAX_INT32)
    kv_heads = check_int(operation, "num_kv_heads", num_kv_heads, 1, MAX_INT32)
    if q_heads % kv_heads:
        raise ArgumentError(
            f"{operation}: num_q_heads {q_heads} is not a multiple of num_kv_heads {kv_heads}"
        )
    return q_heads, kv_heads


def check_slice(
    operation: str,
    name: str,
    given: Any,
    dtypes: np.dtype[Any] | tuple[np.dtype[Any], ...],
    num_elements: int,
    context: Any,
    *,
    why: str = "",
    alignment: int = 0,
) -> None:
    """`given` is open, of this context, of one of `dtypes`, and holds at least `num_elements`."""
    wanted = dtypes if isinstance(dtypes, tuple) else (dtypes,)
    names = " or ".join(dtype_name(d) for d in wanted)
    if not isinstance(given, DeviceMemory):
        raise ArgumentError(
            f"{operation}: {name} is {type(given).__name__}; wanted a slice of {names}"
            " in device memory: stream.clone_htod(array)"
        )
    if given.is_closed:
        raise ClosedError(f"{operation}: {name} is {given!r}; wanted an open slice")
    if given.context is not context and not context.reaches(given.context):
        raise WrongContextError(
            f"{operation}: {name} is of {given.context!r}; wanted one of {context!r}"
        )
    if given.dtype not in wanted:
        raise ArgumentError(
            f"{operation}: {name} is a slice of {dtype_name(given.dtype)}; wanted {names}"
        )
    if len(given) < num_elements:
        raise ArgumentError(
            f"{operation}: {name} has {len(given)} elements; wanted at least {num_elements}"
            + (f" ({why})" if why else "")
        )
    if alignment and given.device_ptr % alignment:
        raise ArgumentError(
            f"{operation}: {name} is at {given.device_ptr:#x}; wanted an address that is a multiple"
            f" of {alignment}; take views at multiples of {alignment} bytes"
        )


def check_disjoint(
    operation: str,
    outputs: Iterable[tuple[str, DeviceSlice | None]],
    inputs: Iterable[tuple[str, DeviceSlice | None]],
) -> None:
    """No output shares a byte with an input or with another output."""
    written = [(name, given) for name, given in outputs if given is not None and len(given)]
    read = [(name, given) for name, given in inputs if given is not None and len(given)]
    for i, (name, out) in enumerate(written):
        for other_name, other in written[i + 1 :] + read:
            begin, end = out.device_ptr, out.device_ptr + out.num_bytes
            if begin < other.device_ptr + other.num_bytes and other.device_ptr < end:
                raise ArgumentError(
                    f"{operation}: {name} at {begin:#x}..{end:#x} overlaps {other_name}"
                    f" at {other.device_ptr:#x}..{other.device_ptr + other.num_bytes:#x};"
                    " wanted memory of its own"
                )
