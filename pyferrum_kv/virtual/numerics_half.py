"""float16 and bfloat16 arithmetic, scalar and in pairs.

Pairs (f16x2, bf16x2) are uint32, the first element in the low half. Sums and products are formed
exactly enough in float64 and rounded once to the narrow type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyferrum_kv.virtual.numerics_float import float_max, float_min, to_odd

Lanes = Any
F2, F4, F8, U2, U4 = np.float16, np.float32, np.float64, np.uint16, np.uint32


def from_bf16(x: Lanes) -> Lanes:
    """uint16 bits to float32."""
    return (x.astype(U4) << U4(16)).view(F4)


def to_bf16(wide: Lanes) -> Lanes:
    """float64, exact or rounded to odd, to bfloat16 bits, nearest even; NaN becomes 0x7fff."""
    near = wide.astype(F4)
    bits = near.view(U4)
    # float64 -> float32 -> bfloat16 rounds twice: make the float32 odd where it was inexact
    inexact = (near.astype(F8) != wide) & np.isfinite(near) & ((bits & U4(1)) == 0)
    if np.count_nonzero(inexact):
        away = np.abs(near.astype(F8)) < np.abs(wide)
        bits = np.where(inexact, np.where(away, bits + U4(1), bits - U4(1)), bits)
    rounded = ((bits + U4(0x7FFF) + ((bits >> U4(16)) & U4(1))) >> U4(16)).astype(U2)
    return np.where(np.isnan(near), U2(0x7FFF), rounded)


def _widen(x: Lanes, t: str) -> Lanes:
    """The values in float64; pairs become [lanes, 2]."""
    if t.endswith("x2"):
        halves = np.ascontiguousarray(np.atleast_1d(x)).view(U2).reshape(-1, 2)
        return halves.view(F2).astype(F8) if t == "f16x2" else from_bf16(halves).astype(F8)
    return x.astype(F8) if t == "f16" else from_bf16(x).astype(F8)


def _narrow(wide: Lanes, t: str, like: int) -> Lanes:
    """Round float64 once to the type; pairs are joined; `like` 0 gives a scalar back."""
    if t.startswith("f16"):
        narrow = wide.astype(F2)
        nan = np.isnan(narrow)
        bits = narrow.view(U2)
        bits = np.where(nan, U2(0x7FFF), bits) if nan.any() else bits
    else:
        bits = to_bf16(wide)
    if t.endswith("x2"):
        joined = np.ascontiguousarray(bits).view(U4).reshape(-1)
        return joined[0] if like == 0 else joined
    return bits.view(F2) if t == "f16" else bits


def _flush(wide: Lanes, wanted: bool) -> Lanes:
    """Flush what is subnormal in float16."""
    if not wanted:
        return wide
    return np.where(np.abs(wide) < 2.0**-14, np.copysign(0.0, wide), wide)


def _finish(wide: Lanes, t: str, like: int, flush: bool, sat: bool, relu: bool) -> Lanes:
    if sat:
        wide = np.where(wide > 0, np.minimum(wide, 1.0), 0.0)  # NaN and -0 become +0
    if relu:
        wide = np.where(wide <= 0, 0.0, wide)
    if flush:
        wide = _flush(wide.astype(F2).astype(F8), True)
    return _narrow(wide, t, like)


def half_binary(sign: str, t: str, a: Lanes, b: Lanes, flush: bool, sat: bool) -> Lanes:
    """a + b, a - b or a * b of f16, f16x2, bf16 or bf16x2."""
    x, y = _flush(_widen(a, t), flush), _flush(_widen(b, t), flush)
    if sign == "*":
        wide = x * y
    else:
        wide = x + y if sign == "+" else x - y
        if t.startswith("bf"):
            wide = to_odd(x, y if sign == "+" else -y)
    return _finish(wide, t, max(np.ndim(a), np.ndim(b)), flush, sat, False)


def half_fma(t: str, a: Lanes, b: Lanes, c: Lanes, flush: bool, sat: bool, relu: bool) -> Lanes:
    """a * b + c, rounded once."""
    x, y, z = (_flush(_widen(v, t), flush) for v in (a, b, c))
    like = max(np.ndim(a), np.ndim(b), np.ndim(c))
    return _finish(to_odd(x * y, z), t, like, flush, sat, relu)


def half_extreme(which: str, t: str, a: Lanes, b: Lanes, nan: bool, flush: bool) -> Lanes:
    """min or max."""
    x, y = _flush(_widen(a, t), flush), _flush(_widen(b, t), flush)
    chosen = float_max(x, y, nan) if which == "max" else float_min(x, y, nan)
    return _narrow(chosen, t, max(np.ndim(a), np.ndim(b)))


def half_unary(name: str, t: str, x: Lanes) -> Lanes:
    """ex2 or tanh."""
    wide = _widen(x, t)
    value = np.exp2(wide) if name == "ex2" else np.tanh(wide)
    return _narrow(value, t, np.ndim(x))
