"""mma.sync and movmatrix: fragments of a warp to matrices, products, and back.

Products of float16 and bfloat16 are exact in float64, summed there, and rounded once to float32.
Hardware truncates each addend to the largest exponent: results agree within 2^-18 of the sum of
absolute products, not to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyferrum_kv.virtual.numerics_half import from_bf16

WARP = 32
Fragments = list[Any]  # of uint32 (or the accumulator's type) [warps, 32]
_LANE = np.arange(WARP)
_GROUP, _IN_GROUP = _LANE // 4, _LANE % 4


def _elements(fragments: Fragments, bits: str) -> Any:
    """[warps, 32, registers * elements]: the values that each lane holds, lowest bits first."""
    words = np.stack(fragments, -1)
    kind = {"f16": np.float16, "bf16": np.uint16, "s8": np.int8, "u8": np.uint8}[bits]
    values = np.ascontiguousarray(words).view(kind)
    return (from_bf16(values) if bits == "bf16" else values).astype(np.float64)


def _places(rows: int, k: int, per_register: int) -> tuple[Any, Any]:
    """(row, column) [32, elements] of the A fragment (16 rows) or the B fragment, as (n, k)."""
    row: list[Any] = []
    column: list[Any] = []
    registers = rows * k // WARP // per_register
    for register in range(registers):
        lower = register % 2 if rows == 16 else 0
        upper = register // 2 if rows == 16 else register
        for element in range(per_register):
            row.append(_GROUP + 8 * lower)
            column.append(_IN_GROUP * per_register + element + upper * 4 * per_register)
    return np.stack(row, 1), np.stack(column, 1)


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
    left, right = np.zeros((warps, 16, k)), np.zeros((warps, 8, k))
    row, column = _places(16, k, per_register)
    left[:, row, column] = _elements(a, a_type)
    row, column = _places(8, k, per_register)
    right[:, row, column] = _elements(b, b_type)
    product = left @ right.transpose(0, 2, 1)
    if c_type == "f16":
        halves = np.ascontiguousarray(np.stack(c, -1)).view(np.float16)
        total = (_gather(product) + halves.astype(np.float64)).astype(np.float16)
        packed = np.ascontiguousarray(total).view(np.uint32)
        return [packed[..., i] for i in range(2)]
    added = _gather(product) + np.stack(c, -1).astype(np.float64)
    if c_type == "f32":
        results = added.astype(np.float32)
    elif satfinite:
        results = np.clip(added, -(2.0**31), 2.0**31 - 1).astype(np.int32)
    else:
        results = added.astype(np.int64).astype(np.int32)
    return [np.ascontiguousarray(results[..., i]) for i in range(4)]


def _gather(product: Any) -> Any:
    """[warps, 32, 4]: each lane's elements of a [16, 8] matrix."""
    row = np.stack([_GROUP, _GROUP, _GROUP + 8, _GROUP + 8], 1)
    column = np.stack([2 * _IN_GROUP, 2 * _IN_GROUP + 1] * 2, 1)
    return product[:, row, column]


def transpose_8x8(words: Any) -> Any:
    """uint32 [warps, 32], two b16 of a row each; the same of the transposed matrix."""
    halves = np.ascontiguousarray(words).view(np.uint16).reshape(-1, 8, 8).swapaxes(1, 2)
    return np.ascontiguousarray(halves).reshape(-1, 64).view(np.uint32)
