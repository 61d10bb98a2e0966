"""Arithmetic against exact rationals: fused, directed and narrow results are rounded once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pyferrum_kv.dtypes import to_bfloat16
from pyferrum_kv.virtual.numerics_convert import cvt_float, float_to_int, int_to_float
from pyferrum_kv.virtual.numerics_float import (
    directed,
    float_max,
    float_min,
    fma_directed,
    fma_f32,
    fma_f64,
    ftz,
)
from pyferrum_kv.virtual.numerics_half import half_binary, half_fma, to_bf16
from pyferrum_kv.virtual.numerics_integer import bfe, bfi, mul_hi, prmt, shf

RNG = np.random.default_rng(11)
COUNT = 3000


def rounded(exact: Fraction, kind: Any, mode: str = "rn") -> Any:
    """The nearest float, or the next one in a direction, by search among neighbours."""
    with np.errstate(over="ignore"):
        near = kind(float(exact)) if abs(exact) < Fraction(2) ** 1000 else kind(np.inf)
    candidates = [np.nextafter(near, kind(-np.inf)), near, np.nextafter(near, kind(np.inf))]
    finite = [c for c in candidates if np.isfinite(c)]
    below = max((c for c in finite if Fraction(float(c)) <= exact), default=kind(-np.inf))
    above = min((c for c in finite if Fraction(float(c)) >= exact), default=kind(np.inf))
    if mode == "rm" or (mode == "rz" and exact > 0):
        return below
    if mode in ("rp", "rz"):
        return above
    if not np.isfinite(below) or not np.isfinite(above):
        return near
    low, high = exact - Fraction(float(below)), Fraction(float(above)) - exact
    if low != high:
        return below if low < high else above
    unsigned = np.dtype(f"u{np.dtype(kind).itemsize}").type
    return below if int(below.view(unsigned)) % 2 == 0 else above


def hard_f32(count: int) -> list[np.ndarray]:
    """a, b, c whose a * b + c lies on or beside a tie, is subnormal, or cancels."""
    a = RNG.integers(1 << 23, 1 << 24, count).astype(np.float32)
    b = (RNG.integers(1, 1 << 12, count) * 2 + 1).astype(np.float32)
    scale = np.exp2(RNG.integers(-40, 40, count)).astype(np.float32)
    c = RNG.choice([-1, 1], count).astype(np.float32) * scale
    tiny = RNG.random(count) < 0.3
    a = np.where(tiny, a * np.float32(2.0**-140), a).astype(np.float32)
    c = np.where(tiny, c * np.float32(2.0**-126), c).astype(np.float32)
    cancel = RNG.random(count) < 0.2
    c = np.where(cancel, -(a * b), c).astype(np.float32)
    # 1 + odd * 2^-23 plus 2^-24 * (1 - i^2 * 2^-46): float64 sees a tie where there is none
    i, tie = RNG.integers(1, 50, count), RNG.random(count) < 0.3
    a = np.where(tie, 1 + i * 2.0**-23, a).astype(np.float32)
    b = np.where(tie, (1 - i * 2.0**-23) * 2.0**-24, b).astype(np.float32)
    c = np.where(tie, 1 + (2 * i + 1) * 2.0**-23, c).astype(np.float32)
    return [a, b, c]


def test_fma_f32_rounds_once_where_two_roundings_would_err() -> None:
    a, b, c = hard_f32(COUNT)
    got = fma_f32(a, b, c)
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    wanted = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), np.float32)
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert np.array_equal(got, np.array(wanted, np.float32))
    assert not np.array_equal(got, twice), "the inputs are not hard enough"


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
def test_directed_rounding_is_exact(mode: str) -> None:
    a, b, c = (v[:800] for v in hard_f32(800))
    exact = [
        [Fraction(float(v)) for v in triple] for triple in zip(a, b, c, strict=True)
    ]  # fmt: skip
    wanted = np.array([rounded(x * y + z, np.float32, mode) for x, y, z in exact])
    assert np.array_equal(fma_directed(a, b, c, mode), wanted)
    wanted = np.array([rounded(x + z, np.float32, mode) for x, _, z in exact])
    assert np.array_equal(directed("+", a, c, mode), wanted)
    wanted = np.array([rounded(x * y, np.float32, mode) for x, y, _ in exact])
    assert np.array_equal(directed("*", a, b, mode), wanted)


def test_fma_f64_is_exact_over_all_exponents() -> None:
    def draw(span: int) -> np.ndarray:
        return RNG.standard_normal(600) * np.exp2(RNG.integers(-span, span, 600).astype(float))

    for span in (2, 60, 500, 1000):
        a, b = draw(span), draw(span)
        with np.errstate(all="ignore"):
            c = np.where(RNG.random(600) < 0.5, -(a * b), draw(span))
            got = fma_f64(a, b, c)
        for x, y, z, result in zip(a, b, c, got, strict=True):
            if not np.isfinite(z):
                continue
            exact = Fraction(x) * Fraction(y) + Fraction(z)
            if abs(exact) < Fraction(2) ** 1023:
                assert result == float(exact)
            else:
                assert np.isinf(result)


def test_special_values_of_fma() -> None:
    inf, nan, one = np.float32(np.inf), np.float32(np.nan), np.float32(1)
    with np.errstate(all="ignore"):
        assert np.isnan(fma_f32(inf, np.float32(0), one))
        assert np.isnan(fma_f32(inf, one, -inf))
        assert np.isnan(fma_f32(one, nan, one))
        assert fma_f32(one, inf, one) == inf
        assert fma_f64(np.float64(1e200), np.float64(1e200), np.float64(-np.inf)) == -np.inf


@pytest.mark.parametrize("t", ["f16", "bf16"])
def test_narrow_arithmetic_rounds_once(t: str) -> None:
    bits = RNG.integers(0, 1 << 16, (3, 2000)).astype(np.uint16)
    if t == "f16":
        values = bits.view(np.float16)
        wide = values.astype(np.float64)
        operands = list(values)
    else:
        with np.errstate(invalid="ignore"):
            wide = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        operands = list(bits)
    keep = np.isfinite(wide).all(0) & (np.abs(wide) < 2.0**60).all(0)
    for sign in "+-*":
        with np.errstate(all="ignore"):
            got = half_binary(sign, t, operands[0], operands[1], False, False)
        for i in np.flatnonzero(keep)[:500]:
            x, y = Fraction(wide[0, i]), Fraction(wide[1, i])
            exact = x * y if sign == "*" else x + y if sign == "+" else x - y
            _assert_narrow(got[i], exact, t)
    with np.errstate(all="ignore"):
        got = half_fma(t, *operands, False, False, False)
    for i in np.flatnonzero(keep)[:500]:
        x, y, z = (Fraction(v) for v in wide[:, i])
        _assert_narrow(got[i], x * y + z, t)


def _assert_narrow(got: Any, exact: Fraction, t: str) -> None:
    if t == "f16":
        if abs(exact) < 65504:
            assert got == rounded(exact, np.float16)
        return
    # bfloat16: round the exact value to 8 bits by integers
    if exact == 0:
        return
    value = (np.uint32(got) << np.uint32(16)).view(np.float32)
    unit = Fraction(float(np.spacing(np.float32(abs(float(exact)))))) * 2**16
    error = abs(Fraction(float(value)) - exact)
    assert error <= unit / 2, (float(exact), value)


def test_bfloat16_ties_that_float32_hides() -> None:
    """1 + 2^-8 + 2^-40 is above the tie; rounding to float32 first would make it one."""
    value = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 3 * 2.0**-8])
    assert to_bf16(value).tolist() == [0x3F81, 0x3F80, 0x3F82]
    values = RNG.standard_normal(1000).astype(np.float32)
    ours = to_bf16(values.astype(np.float64))
    assert np.array_equal(ours, to_bfloat16(values).view(np.uint16))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("target", ["f16", "f32"])
def test_integers_become_floats_rounded_once(mode: str, target: str) -> None:
    kind = {"f16": np.float16, "f32": np.float32}[target]
    wide = RNG.integers(-(1 << 63), 1 << 63, 300, np.int64) >> RNG.integers(0, 63, 300)
    if target == "f16":
        wide = wide[np.abs(wide) < 65000]
    got = int_to_float(wide, target, mode, False)
    assert got.tolist() == [rounded(Fraction(int(v)), kind, mode) for v in wide]


def test_floats_become_integers_clamped() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 2.5, -2.5, 1e20], np.float32)
    assert float_to_int(x, np.int32, "rni").tolist() == [
        0, 2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 2, -2, 2**31 - 1,
    ]  # fmt: skip
    assert float_to_int(x, np.uint32, "rzi").tolist() == [
        0, 2**32 - 1, 0, 3_000_000_000, 0, 2, 0, 2**32 - 1,
    ]  # fmt: skip
    assert float_to_int(x, np.uint8, "rpi").tolist() == [0, 255, 0, 255, 0, 3, 0, 255]
    assert float_to_int(x[1:], np.int64, "rmi").tolist() == [
        2**63 - 1, -(2**63), 3_000_000_000, -3_000_000_000, 2, -3, 2**63 - 1,
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_float32_becomes_float16(mode: str) -> None:
    x = (RNG.standard_normal(1000) * np.exp2(RNG.integers(-26, 15, 1000))).astype(np.float32)
    got = cvt_float(x, "f16", mode, False, False)
    assert got.tolist() == [rounded(Fraction(float(v)), np.float16, mode) for v in x]


def test_zeros_have_an_order_in_min_and_max() -> None:
    zeros = np.array([0.0, -0.0, 0.0, -0.0], np.float32)
    other = np.array([-0.0, 0.0, 0.0, -0.0], np.float32)
    assert np.signbit(float_max(zeros, other, False)).tolist() == [False, False, False, True]
    assert np.signbit(float_min(zeros, other, False)).tolist() == [True, True, False, True]
    nan = np.full(4, np.nan, np.float32)
    assert np.array_equal(float_max(nan, other, False), other)
    assert np.isnan(float_min(nan, other, True)).all()


def test_subnormals_are_flushed_with_their_sign() -> None:
    x = np.array([2.0**-127, -(2.0**-149), 2.0**-126, 0.0, np.nan], np.float32)
    flushed = ftz(x)
    assert flushed[:4].tolist() == [0.0, 0.0, 2.0**-126, 0.0]
    assert np.signbit(flushed[:2]).tolist() == [False, True]


def test_integer_operations_against_python() -> None:
    for _ in range(300):
        a, b = (int(v) for v in RNG.integers(0, 1 << 32, 2))
        start, count = int(RNG.integers(0, 40)), int(RNG.integers(0, 40))
        x, y = np.uint32(a), np.uint32(b)
        field = (a >> start if start < 32 else 0) & ((1 << min(count, 32)) - 1)
        assert int(bfe(x, np.uint32(start), np.uint32(count))) == field & 0xFFFFFFFF
        mask = (((1 << count) - 1) << start) & 0xFFFFFFFF
        inserted = (b & ~mask) | ((a << start) & mask)
        assert int(bfi(x, y, np.uint32(start), np.uint32(count))) == inserted
        both = b << 32 | a
        assert (
            int(shf(x, y, np.uint32(start), True, True)) == (both << start % 32) >> 32 & 0xFFFFFFFF
        )
        assert int(shf(x, y, np.uint32(start), False, False)) == both >> min(start, 32) & 0xFFFFFFFF
        wide = int(RNG.integers(0, 1 << 64, dtype=np.uint64))
        assert int(mul_hi(np.uint64(wide), np.uint64(both))) == wide * both >> 64


@pytest.mark.parametrize("as_array", [False, True])
def test_prmt_picks_bytes_and_spreads_signs(as_array: bool) -> None:
    a, b = np.array([0x80112233], np.uint32), np.array([0x445566F7], np.uint32)
    source = [0x33, 0x22, 0x11, 0x80, 0xF7, 0x66, 0x55, 0x44]
    for selector in (0x3210, 0x7654, 0x0B4C, 0x8FFF, 0x5140):
        wanted = 0
        for i in range(4):
            nibble = selector >> 4 * i & 15
            byte = source[nibble & 7]
            wanted |= (byte if nibble < 8 else 0xFF * (byte >> 7)) << 8 * i
        chosen = np.array([selector], np.uint32) if as_array else np.uint32(selector)
        assert prmt(a, b, chosen, "").tolist() == [wanted]
