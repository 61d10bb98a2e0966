"""Element types of device memory: NumPy's dtypes, and a bfloat16 that NumPy lacks.

`bfloat16` is a two-byte structured dtype, so it is told apart from uint16 wherever dtypes are
compared, and needs no package beside NumPy. An array of another package's bfloat16 (ml_dtypes, say)
is accepted as the same type by `as_dtype`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

bfloat16: np.dtype[Any] = np.dtype([("bfloat16", "<u2")])

POINTEES = {
    **{"i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64"},
    **{"u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64"},
    **{"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"},
    **{"char": "int8", "signed char": "int8", "unsigned char": "uint8", "bool": "bool"},
    **{"short": "int16", "unsigned short": "uint16", "int": "int32", "unsigned int": "uint32"},
    **{"unsigned": "uint32", "long long": "int64", "unsigned long long": "uint64"},
    **{"long": "int64", "unsigned long": "uint64", "float": "float32", "double": "float64"},
    **{"half": "float16", "__half": "float16", "__nv_bfloat16": "bfloat16"},
}
"""Pointee as the manifest writes it -> the dtype a slice must have; any other takes any slice."""


def as_dtype(dtype: npt.DTypeLike | str) -> np.dtype[Any]:
    """Return the element type that `dtype` names; "bfloat16" and foreign bfloat16s are ours."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        return bfloat16
    result = np.dtype(dtype)
    return bfloat16 if result.name == "bfloat16" else result


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name that messages use: float16, bfloat16, int8, ..."""
    return "bfloat16" if dtype == bfloat16 else dtype.name


def to_bfloat16(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Round to bfloat16, nearest even; NaN stays NaN. Returns an array of dtype `bfloat16`."""
    f32 = np.ascontiguousarray(values, np.float32)
    bits = f32.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(f32), quiet_nan, rounded).astype("<u2").view(bfloat16)


def from_bfloat16(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Widen an array of dtype `bfloat16` to float32, exactly."""
    return (values.view("<u2").astype(np.uint32) << 16).view(np.float32)
