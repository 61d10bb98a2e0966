"""Rotary embedding as a kernel of its own would store it, bit for bit.

Pair i of a token turns by the angle of its position, i < rotary_dim / 2:

    a' = a cos_i - b sin_i          half-split (neox):  a = x[i],   b = x[i + rotary_dim / 2]
    b' = b cos_i + a sin_i          interleaved:        a = x[2i],  b = x[2i + 1]

Elements from rotary_dim on stay. Both products and the sum are rounded to float32, the result to
the type of x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.reference.quantize import as_float64


def rotary_embedding(
    x: npt.NDArray[Any],
    positions: npt.NDArray[np.int32],
    cos_sin: npt.NDArray[np.float32],
    *,
    interleaved: bool = False,
) -> npt.NDArray[Any]:
    """Rotate every row of every token.

    x:          float16, bfloat16  [num_tokens, num_heads, head_dim]
    positions:  int32              [num_tokens]; one outside the table gives NaN
    cos_sin:    float32            [max_position, rotary_dim], cosines first
    returns:    as x
    """
    max_position, rotary_dim = cos_sin.shape
    half = rotary_dim // 2
    inside = (positions >= 0) & (positions < max_position)
    angles = np.where(inside[:, None], cos_sin[np.where(inside, positions, 0)], np.float32(np.nan))
    cosine, sine = angles[:, None, :half], angles[:, None, half:]
    rows = as_float64(x).astype(np.float32)
    if interleaved:
        first, second = slice(0, rotary_dim, 2), slice(1, rotary_dim, 2)
    else:
        first, second = slice(0, half), slice(half, rotary_dim)
    a, b = rows[..., first].copy(), rows[..., second].copy()
    with np.errstate(over="ignore", invalid="ignore"):
        rows[..., first] = a * cosine - b * sine
        rows[..., second] = b * cosine + a * sine
        turned = _rounded(rows, x.dtype)
    turned[..., rotary_dim:] = x[..., rotary_dim:]
    return turned


def _rounded(x: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """To the nearest float16 or bfloat16, half to even."""
    if dtype.names != ("bfloat16",):
        return x.astype(dtype)
    bits = x.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), nearest).view(dtype)
