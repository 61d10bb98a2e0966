"""Matrix products and transposes of warps against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pyferrum_kv.dtypes import to_bfloat16
from pyferrum_kv.virtual import matrices

RNG = np.random.default_rng(12)


@pytest.mark.parametrize(
    ("k", "a_type", "c_type"),
    [
        (16, "f16", "f32"),
        (8, "f16", "f32"),
        (16, "bf16", "f32"),
        (32, "s8", "s32"),
        (16, "u8", "s32"),
    ],
)
def test_mma_multiplies_matrices_laid_out_as_the_manual_says(
    k: int, a_type: str, c_type: str
) -> None:
    """Fragments are packed here element by element, from the manual's formulas."""
    warps, wide = 3, 4 if a_type in ("s8", "u8") else 2
    a = RNG.integers(-8, 8, (warps, 16, k)).astype(float)
    b = RNG.integers(-8, 8, (warps, k, 8)).astype(float)
    if a_type == "u8":
        a, b = np.abs(a), np.abs(b)
    c = RNG.integers(-99, 99, (warps, 16, 8)).astype(float)

    def pack(values: np.ndarray) -> np.ndarray:
        if a_type == "bf16":
            return to_bfloat16(values).view(np.uint16)
        kind = {"f16": np.float16, "s8": np.int8, "u8": np.uint8}[a_type]
        return values.astype(kind).view(f"u{np.dtype(kind).itemsize}")

    num_a, num_b = 16 * k // 32 // wide, 8 * k // 32 // wide
    elements = [np.zeros((warps, 32, n * wide), pack(a).dtype) for n in (num_a, num_b)]
    for lane in range(32):
        group, inner = lane // 4, lane % 4
        for i in range(num_a * wide):
            row = group + (8 if i // wide % 2 else 0)
            column = inner * wide + i % wide + (4 * wide if i >= 2 * wide else 0)
            elements[0][:, lane, i] = pack(a)[:, row, column]
        for i in range(num_b * wide):
            row = inner * wide + i % wide + (4 * wide if i >= wide else 0)
            elements[1][:, lane, i] = pack(b)[:, row, group]
    words = [e.view(np.uint32) for e in elements]
    kind = np.float32 if c_type == "f32" else np.int32
    lane = np.arange(32)
    fragments = [
        c[:, lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2].astype(kind) for i in range(4)
    ]
    split = [[w[..., i] for i in range(w.shape[-1])] for w in words]
    got = matrices.mma((split[0], split[1], fragments), k, a_type, a_type, c_type, False)
    product = a @ b + c
    for i in range(4):
        wanted = product[:, lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2]
        assert np.array_equal(got[i], wanted)


def test_movmatrix_transposes_each_warps_matrix() -> None:
    matrix = RNG.integers(0, 1 << 16, (5, 8, 8)).astype(np.uint16)
    words = matrix.reshape(5, 64).view(np.uint32)
    got = matrices.transpose_8x8(words)
    assert np.array_equal(got.view(np.uint16).reshape(5, 8, 8), matrix.swapaxes(1, 2))
