"""The quantiser's promises, on rows of every size that fp16 and bf16 can hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyferrum_kv import bfloat16, reference

fp16_rows = hnp.arrays(
    np.float16, (3, 8), elements=st.floats(width=16, allow_nan=False, allow_infinity=False)
)
bf16_rows = hnp.arrays(np.uint16, (3, 8), elements=st.integers(0, 2**16 - 1)).map(
    lambda bits: bits.view(bfloat16)
)


def widened(rows: np.ndarray) -> np.ndarray:
    if rows.dtype == bfloat16:
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return rows.astype(np.float64)


@given(st.one_of(fp16_rows, bf16_rows))
def test_every_element_comes_back_within_half_a_scale_or_the_row_is_poison(rows):
    codes, scales = reference.quantize(rows)
    exact = widened(rows)
    usable = np.isfinite(scales)
    error = np.abs(exact - reference.dequantize(codes, scales))[usable]
    assert (error <= scales[usable].astype(np.float64)[:, None] / 2).all()
    assert (codes[~usable] == 0).all()
    with np.errstate(invalid="ignore"):
        reachable = np.isfinite(exact).all(axis=1) & (np.abs(exact).max(axis=1) <= 127 * 65504.0)
    np.testing.assert_array_equal(usable, reachable)


@given(st.one_of(fp16_rows, bf16_rows))
def test_the_scale_is_the_least_fp16_that_reaches_the_largest_element(rows):
    _, scales = reference.quantize(rows)
    exact = np.abs(widened(rows)).max(axis=1)
    for scale, largest in zip(scales, exact, strict=True):
        if np.isfinite(scale):
            assert float(scale) * 127 >= largest
            below = np.nextafter(scale, np.float16(0))
            assert below == 0 or float(below) * 127 < largest


@given(fp16_rows)
def test_codes_use_the_range_and_never_pass_it(rows):
    codes, scales = reference.quantize(rows)
    assert np.abs(codes.astype(int)).max() <= 127
    normal = scales >= np.float16(2.0**-14)  # a subnormal scale is coarser than 1 in 2048
    assert (np.abs(codes[normal].astype(int)).max(axis=1) >= 126).all()


@given(fp16_rows)
def test_negation_negates_the_codes(rows):
    codes, scales = reference.quantize(rows)
    negated, same = reference.quantize(-rows)
    np.testing.assert_array_equal(negated, -codes)
    np.testing.assert_array_equal(same, scales)
