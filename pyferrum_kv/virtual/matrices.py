"""mma.sync and movmatrix: fragments of a warp to matrices, products, and back.

Products of float16 and bfloat16 are exact in float64, summed there, and rounded once to float32.
Hardware truncates each addend to the largest exponent: results agree within 2^-18 of the sum of
absolute products, not to the bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from pyferrum_kv.virtual.numerics_half import from_bf16

WARP = 32
Fragments = list[Any]  # of uint32 (or the accumulator's type) [warps, 32]
_LANE = np.arange(WARP)
_GROUP, _IN_GROUP = _LANE // 4, _LANE % 4


def _elements(fragments: Fragments, bits: str) -> Any:
    """[warps, 32 * elements a lane]: what the lanes hold, lowest bits first."""
    words = np.stack(fragments, -1)
    kind = {"f16": np.float16, "bf16": np.uint16, "s8": np.int8, "u8": np.uint8}[bits]
    values = np.ascontiguousarray(words).view(kind)
    wide = (from_bf16(values) if bits == "bf16" else values).astype(np.float64)
    return wide.reshape(wide.shape[0], -1)


@lru_cache(maxsize=32)
def _order(rows: int, k: int, per_register: int) -> Any:
    """[rows * k]: where each element of A (16 rows) or of B's transpose (8 rows) lies in a warp.

    The lanes' elements are numbered lane * (elements a lane) + element.
    """
    elements = rows * k // WARP
    order = np.zeros((rows, k), np.intp)
    for element in range(elements):
        register, within = divmod(element, per_register)
        lower = register % 2 if rows == 16 else 0
        upper = register // 2 if rows == 16 else register
        column = _IN_GROUP * per_register + within + upper * 4 * per_register
        order[_GROUP + 8 * lower, column] = _LANE * elements + element
    return order.reshape(-1)


# [128]: the elements of a [16, 8] matrix that the lanes hold, four each
_HELD = np.stack(
    [(_GROUP + 8 * (i // 2)) * 8 + 2 * _IN_GROUP + i % 2 for i in range(4)],
    1,
).reshape(-1)


def mma(
    abc: tuple[Fragments, Fragments, Fragments],
    k: int,
    a_type: str,
    b_type: str,
    c_type: str,
    satfinite: bool,
) -> Fragments:
    """The four (for f16: two) accumulator fragments of A[16, k] * B[k, 8] + C[16, 8]."""
    a, b, c = abc
    per_register = 4 if a_type in ("s8", "u8") else 2
    warps = a[0].shape[0]
    left = _elements(a, a_type)[:, _order(16, k, per_register)].reshape(warps, 16, k)
    right = _elements(b, b_type)[:, _order(8, k, per_register)].reshape(warps, 8, k)
    product = (left @ right.transpose(0, 2, 1)).reshape(warps, 128)[:, _HELD]
    held = product.reshape(warps, WARP, 4)
    if c_type == "f16":
        halves = np.ascontiguousarray(np.stack(c, -1)).view(np.float16)
        total = (held + halves.astype(np.float64)).astype(np.float16)
        packed = np.ascontiguousarray(total).view(np.uint32)
        return [packed[..., i] for i in range(2)]
    added = held + np.stack(c, -1)
    if c_type == "f32":
        results = added.astype(np.float32)
    elif satfinite:
        results = np.clip(added, -(2.0**31), 2.0**31 - 1).astype(np.int32)
    else:
        results = added.astype(np.int64).astype(np.int32)
    return [np.ascontiguousarray(results[..., i]) for i in range(4)]


def transpose_8x8(words: Any) -> Any:
    """uint32 [warps, 32], two b16 of a row each; the same of the transposed matrix."""
    halves = np.ascontiguousarray(words).view(np.uint16).reshape(-1, 8, 8).swapaxes(1, 2)
    return np.ascontiguousarray(halves).reshape(-1, 64).view(np.uint32)
