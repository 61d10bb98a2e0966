"""float32 and float64 operations of PTX that need more than NumPy's correctly rounded ones."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Lanes = Any
F4, F8, U4, U8 = np.float32, np.float64, np.uint32, np.uint64
_TINY = F4(2.0**-126)  # the smallest normal float32
_HUGE = F4(2.0**126)  # the largest float32 whose reciprocal is normal
_ONE, _LOW_BITS, _TIE = U8(1), U8(0x1FFFFFFF), U8(0x10000000)
_SUBNORMAL = U8((1023 - 125) << 53)
count_nonzero = np.count_nonzero  # a third of the time of .any()


def ftz(x: Lanes) -> Lanes:
    """Flush subnormals to zero of the same sign."""
    small = np.abs(x) < _TINY
    if not count_nonzero(small):
        return x
    return np.where(small, np.copysign(F4(0), x), x)


# -------------------------------------------------------- fused multiply


def _error_of_sum(a: Lanes, b: Lanes, total: Lanes) -> Lanes:
    """The exact a + b - total (Knuth)."""
    back = total - a
    return (a - (total - back)) + (b - back)


def to_odd(a: Lanes, b: Lanes) -> Lanes:
    """a + b in float64, rounded to odd: a later rounding to 51 bits or fewer is then exact."""
    total = a + b
    error = _error_of_sum(a, b, total)
    inexact = error != 0
    if not count_nonzero(inexact):
        return total
    bits = np.asarray(total).view(np.int64)
    inexact &= np.isfinite(error) & ((bits & 1) == 0)
    towards = np.where((error > 0) == (total > 0), 1, -1)
    return (bits + np.where(inexact, towards, 0)).view(F8)[()]


def fma_f32(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """float32 a * b + c, rounded once."""
    product = a.astype(F8) * b.astype(F8)  # exact: 48 bits
    total = product + c
    bits = total.view(U8)
    # Rounding twice errs only where the float64 sum ends in a float32 tie, or goes subnormal:
    # its bits without the sign, less one so that zero wraps away, are then small
    ties = (bits & _LOW_BITS) == _TIE
    small = (bits << _ONE) - _ONE < _SUBNORMAL
    if count_nonzero(ties) or count_nonzero(small):
        total = to_odd(product, c.astype(F8))
    return total.astype(F4)


def fma_f64(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """float64 a * b + c, rounded once (Boldo and Melquiond); extreme lanes by rationals."""
    a, b, c = np.broadcast_arrays(a, b, c)
    high, low = _two_product(a, b)
    u_high = c + low
    u_low = _error_of_sum(c, low, u_high)
    t_high = high + u_high
    t_low = _error_of_sum(high, u_high, t_high)
    result = np.atleast_1d(t_high + to_odd(t_low, u_low))
    sizes = [np.frexp(x)[1] for x in (a, b, c)]
    limit = sizes[0] + sizes[1]
    safe = (np.abs(limit) < 900) & (np.abs(sizes[2]) < 900)
    safe &= np.abs(sizes[0]) < 900
    safe &= np.abs(sizes[1]) < 900
    safe &= np.isfinite(a) & np.isfinite(b) & np.isfinite(c) & (a != 0) & (b != 0)
    for i in np.flatnonzero(~np.atleast_1d(safe)):
        x, y, z = (float(np.atleast_1d(v)[i]) for v in (a, b, c))
        result[i] = _fma_rational(x, y, z)
    return result.reshape(np.shape(a))[()]


def _two_product(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """The product and its exact error (Veltkamp, Dekker)."""
    product = a * b
    splitter = F8(134217729.0)
    a_high = a * splitter - (a * splitter - a)
    b_high = b * splitter - (b * splitter - b)
    a_low, b_low = a - a_high, b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _fma_rational(a: float, b: float, c: float) -> float:
    if not np.isfinite(c) and np.isfinite(a) and np.isfinite(b):
        return c
    if not (np.isfinite(a) and np.isfinite(b)) or a == 0 or b == 0:
        return float(F8(a) * F8(b) + F8(c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return float(F8(a) * F8(b) + F8(c)) if c else 0.0
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


# ------------------------------------------------------ directed rounding


def round_to_f32(wide: Lanes, rounding: str) -> Lanes:
    """float64 to float32 in direction rz, rm or rp (or rn)."""
    near = wide.astype(F4)
    if rounding == "rn":
        return near
    back = near.astype(F8)
    down = {"rm": back > wide, "rp": False, "rz": (back > wide) & (wide > 0)}[rounding]
    up = {"rp": back < wide, "rm": False, "rz": (back < wide) & (wide < 0)}[rounding]
    stepped = np.where(down, np.nextafter(near, F4(-np.inf)), near)
    return np.where(up, np.nextafter(near, F4(np.inf)), stepped)


def directed(sign: str, a: Lanes, b: Lanes, rounding: str) -> Lanes:
    """float32 a + b, a - b or a * b, rounded in a direction."""
    x, y = a.astype(F8), b.astype(F8)
    wide = x * y if sign == "*" else to_odd(x, y if sign == "+" else np.negative(y))
    result = round_to_f32(wide, rounding)
    if rounding == "rm" and sign != "*":  # an exact zero sum of opposite signs is -0 downwards
        negative = np.signbit(a) | (np.signbit(b) ^ (sign == "-"))
        result = np.where((wide == 0) & negative, F4(-0.0), result)
    return result


def fma_directed(a: Lanes, b: Lanes, c: Lanes, rounding: str) -> Lanes:
    """float32 a * b + c, rounded once in a direction."""
    product, wide_c = a.astype(F8) * b.astype(F8), c.astype(F8)
    wide = to_odd(product, wide_c)
    result = round_to_f32(wide, rounding)
    if rounding == "rm":
        negative = np.signbit(product) | np.signbit(c)
        result = np.where((wide == 0) & negative, F4(-0.0), result)
    return result


# -------------------------------------------------------- min, max, tests


def float_max(a: Lanes, b: Lanes, nan: bool) -> Lanes:
    """The larger; +0 counts as larger than -0; a NaN loses unless `nan` is asked for."""
    larger = np.maximum(a, b) if nan else np.fmax(a, b)
    if not count_nonzero(larger == 0):
        return larger
    return np.where((a == 0) & (b == 0), a + b, larger)


def float_min(a: Lanes, b: Lanes, nan: bool) -> Lanes:
    """The smaller; -0 counts as smaller than +0; a NaN loses unless `nan` is asked for."""
    smaller = np.minimum(a, b) if nan else np.fmin(a, b)
    zero = smaller == 0
    if not count_nonzero(zero):
        return smaller
    negative = (np.signbit(a) & (a == 0)) | (np.signbit(b) & (b == 0))
    return np.where(
        zero, np.where(negative, -smaller.dtype.type(0), smaller.dtype.type(0)), smaller
    )


def testp(test: str, x: Lanes) -> Lanes:
    """Whether the value is of the class; zeros count as normal."""
    normal = np.finfo(x.dtype).tiny
    if test == "finite":
        return np.isfinite(x)
    if test == "infinite":
        return np.isinf(x)
    if test == "number":
        return ~np.isnan(x)
    if test == "notanumber":
        return np.isnan(x)
    if test == "normal":
        return np.isfinite(x) & ((np.abs(x) >= normal) | (x == 0))
    return (np.abs(x) < normal) & (x != 0)


# ---------------------------------------------------------- approximations
# In float64, rounded once: nearer to the truth than the hardware, within the manual's bounds of it.


def div_approx(a: Lanes, b: Lanes) -> Lanes:
    quotient = (a.astype(F8) / b.astype(F8)).astype(F4)
    lost = (np.abs(b) > _HUGE) & np.isfinite(b)  # the reciprocal is subnormal: flushed to zero
    if not count_nonzero(lost):
        return quotient
    return np.where(lost, a * np.copysign(F4(0), b), quotient)


def rsqrt(x: Lanes) -> Lanes:
    return (1.0 / np.sqrt(x.astype(F8))).astype(F4)


def sin(x: Lanes) -> Lanes:
    return np.sin(x.astype(F8)).astype(F4)


def cos(x: Lanes) -> Lanes:
    return np.cos(x.astype(F8)).astype(F4)


def lg2(x: Lanes) -> Lanes:
    return np.log2(x.astype(F8)).astype(F4)


def ex2(x: Lanes) -> Lanes:
    return np.exp2(x.astype(F8)).astype(F4)


def tanh(x: Lanes) -> Lanes:
    return np.tanh(x.astype(F8)).astype(F4)
