"""The INT8 format of one row: fp16 or bf16 values to int8 codes and an fp16 scale, bit for bit.

A row is the last axis: the head_dim values of one (token, KV head).

    scale = max|x| / 127, rounded to fp16 upwards, at least 2^-24
    code  = x / scale, rounded to the nearest integer, half to even
    x    ~= code * scale                    |x - code * scale| <= scale / 2

A row that holds a NaN or an infinity, or whose scale would pass fp16's 65504, has the scale NaN and
codes 0: whatever attends to it becomes NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST_SCALE = np.float16(2.0**-24)


def quantize(x: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Quantise rows.

    x:        float16, bfloat16 or a float that holds such values  [..., head_dim]
    returns:  codes int8 [..., head_dim], scales float16 [...]
    """
    exact = as_float64(x)
    amax = np.abs(exact).max(axis=-1)  # NaN where a row holds one
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = (amax / 127).astype(np.float16)
        above = np.nextafter(nearest, np.float16(np.inf))
        scales = np.where(nearest.astype(np.float64) * 127 < amax, above, nearest)
    scales = np.maximum(scales, SMALLEST_SCALE)
    usable = np.isfinite(scales) & np.isfinite(amax)
    scales = np.where(usable, scales, np.float16(np.nan)).astype(np.float16)

    divisor = np.where(usable, scales, np.float16(1)).astype(np.float64)[..., None]
    rows = np.where(usable[..., None], exact, 0.0)
    return np.rint(rows / divisor).astype(np.int8), scales


def dequantize(
    codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float16]
) -> npt.NDArray[np.float64]:
    """Return code * scale, exactly.

    codes: int8 [..., head_dim], scales: float16 [...]
    """
    return codes.astype(np.float64) * scales.astype(np.float64)[..., None]


def as_float64(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Widen any float array exactly; a bfloat16 is known by its name, or by its field's."""
    if x.dtype.names == ("bfloat16",):
        x = (np.ascontiguousarray(x).view("<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return x.astype(np.float64)
