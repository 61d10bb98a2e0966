"""cvt: between integers and floats, between floats, with rounding, saturation and clamping."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyferrum_kv.virtual.numerics_float import round_to_f32
from pyferrum_kv.virtual.numerics_half import to_bf16

Lanes = Any
F2, F4, F8, U2, U4, U8, I8 = (
    np.float16,
    np.float32,
    np.float64,
    np.uint16,
    np.uint32,
    np.uint64,
    np.int64,
)
_ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def saturate(x: Lanes) -> Lanes:
    """Clamp to [0, 1]; NaN and -0 become +0."""
    kind = x.dtype.type
    return np.where(x > 0, np.minimum(x, kind(1)), kind(0))


def clamp(x: Lanes, kind: Any) -> Lanes:
    """An integer clamped into another integer type."""
    limits, own = np.iinfo(kind), np.iinfo(x.dtype)
    low, high = max(limits.min, own.min), min(limits.max, own.max)
    return np.clip(x, x.dtype.type(low), x.dtype.type(high)).astype(kind)


def to_integral(x: Lanes, rounding: str) -> Lanes:
    """Round to an integral value of the same type."""
    return _ROUND[rounding](x)


def float_to_int(x: Lanes, kind: Any, rounding: str) -> Lanes:
    """Round and clamp into the integer type.

    NaN gives 0, or the top bit alone where the source or the result has 64 bits.
    """
    limits = np.iinfo(kind)
    whole = _ROUND[rounding](x.astype(F8))
    low, high = float(limits.min), float(limits.max)  # the largest 64-bit ones round up: exclusive
    inside = (
        (whole >= low) & (whole <= high) if limits.bits < 64 else (whole >= low) & (whole < high)
    )
    result = np.where(inside, whole, 0.0).astype(kind)
    if inside.all():
        return result
    nan = np.isnan(whole)
    narrow = limits.bits < 64 and x.dtype != F8
    of_nan = kind(0) if narrow else U8(1 << (limits.bits - 1)).astype(kind)
    result = np.where(whole < low, kind(limits.min), result)
    result = np.where(
        (whole > high) | ((limits.bits == 64) & (whole >= high)), kind(limits.max), result
    )
    return np.where(nan, of_nan, result)


def int_to_float(x: Lanes, target: str, rounding: str, sat: bool) -> Lanes:
    """An integer to f16, f32 or f64."""
    if target == "f64":
        wide = x.astype(F8)
        if rounding != "rn" and x.dtype.itemsize == 8:
            wide = _round_integer(x, 53, rounding)
    elif x.dtype.itemsize == 8 or rounding != "rn" or target == "f16":
        digits = 24 if target == "f32" else 11
        wide = _round_integer(x, digits, rounding)
    else:
        wide = x.astype(F4)
    result = wide.astype({"f16": F2, "f32": F4, "f64": F8}[target])
    if target == "f16" and rounding in ("rz", "rm", "rp"):
        result = _bounded_f16(result, wide, rounding)
    return saturate(result) if sat else result


def _bounded_f16(result: Lanes, wide: Lanes, rounding: str) -> Lanes:
    """Rounding towards zero, or away from infinity, stops at the largest finite value."""
    stops_up = rounding in ("rz", "rm")
    stops_down = rounding in ("rz", "rp")
    result = np.where(np.isposinf(result) & np.isfinite(wide) & stops_up, F2(65504), result)
    return np.where(np.isneginf(result) & np.isfinite(wide) & stops_down, F2(-65504), result)


def _round_integer(x: Lanes, digits: int, rounding: str) -> Lanes:
    """float64 of the integer rounded to `digits` significant bits (53 at most)."""
    negative = x < 0
    size = np.where(negative, np.negative(x.astype(I8)).view(U8), x.astype(U8))
    exponent = np.zeros(np.shape(size), U8)
    for step in (32, 16, 8, 4, 2, 1):
        larger = (size >> (exponent + U8(step))) != 0
        exponent = np.where(larger, exponent + U8(step), exponent)
    drop = np.where(exponent >= U8(digits), exponent - U8(digits - 1), U8(0))
    kept, rest = size >> drop, size & ((U8(1) << drop) - U8(1))
    half = np.where(drop > 0, U8(1) << (np.maximum(drop, U8(1)) - U8(1)), U8(0))
    if rounding == "rn":
        up = (rest > half) | ((rest == half) & (rest > 0) & ((kept & U8(1)) == 1))
    else:
        away = {"rz": np.False_, "rm": negative, "rp": ~negative}[rounding]
        up = away & (rest > 0)
    value = np.ldexp((kept + up.astype(U8)).astype(F8), drop.astype(np.int32))
    return np.where(negative, -value, value)[()]


def cvt_float(x: Lanes, target: str, rounding: str, sat: bool, relu: bool) -> Lanes:
    """Between float types; `rounding` is empty where the target is wider."""
    if relu:
        x = np.where(x <= 0, x.dtype.type(0), x)
    if target == "f64":
        result = x.astype(F8)
    elif target == "f32":
        result = round_to_f32(x, rounding) if x.dtype == F8 else x.astype(F4)
    elif target == "f16":
        result = _to_f16(x, rounding)
    else:
        return _to_bf16_directed(x, rounding)
    return saturate(result) if sat else result


def _to_f16(x: Lanes, rounding: str) -> Lanes:
    near = x.astype(F2)
    bits = near.view(U2)
    nan = np.isnan(near)
    if np.count_nonzero(nan):
        near = np.where(nan, U2(0x7FFF), bits).view(F2)
    if rounding in ("rn", ""):
        return near
    back = near.astype(x.dtype)
    down = {"rm": back > x, "rp": np.False_, "rz": (back > x) & (x > 0)}[rounding]
    up = {"rp": back < x, "rm": np.False_, "rz": (back < x) & (x < 0)}[rounding]
    near = np.where(down, np.nextafter(near, F2(-np.inf)), near)
    return np.where(up, np.nextafter(near, F2(np.inf)), near)


def _to_bf16_directed(x: Lanes, rounding: str) -> Lanes:
    if rounding == "rn":
        return to_bf16(x.astype(F8))
    bits = x.astype(F4).view(U4)  # rz: the upper half, cut
    return np.where(np.isnan(x), U2(0x7FFF), (bits >> U4(16)).astype(U2))


def cvt_pair(high: Lanes, low: Lanes, target: str, rounding: str, relu: bool) -> Lanes:
    """Two float32 to f16x2 or bf16x2: the first source is the upper half."""
    narrow = target[:-2]
    upper = cvt_float(high, narrow, rounding, False, relu).view(U2)
    lower = cvt_float(low, narrow, rounding, False, relu).view(U2)
    return (upper.astype(U4) << U4(16)) | lower.astype(U4)


def cvt_tf32(x: Lanes) -> Lanes:
    """float32 to tf32 bits, nearest, ties away from zero; infinities and NaNs stay as they are."""
    bits = x.view(U4)
    rounded = (bits + U4(0x1000)) & U4(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, bits)
