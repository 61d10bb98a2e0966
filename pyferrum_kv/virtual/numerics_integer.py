"""Integer arithmetic of PTX over arrays: what NumPy has not, or does otherwise.

Every function takes arrays [lanes] or NumPy scalars of the dtype that its form names, and gives the
same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Lanes = Any  # an array [lanes] or a NumPy scalar

U4, U8, I8 = np.uint32, np.uint64, np.int64
_BYTE_POPC = np.array([bin(n).count("1") for n in range(256)], np.uint8)
_BYTE_REV = np.array([int(f"{n:08b}"[::-1], 2) for n in range(256)], np.uint8)


# ------------------------------------------------------- vectors of lanes


def columns(raw: Lanes, kind: Any, count: int) -> Any:
    """[count, lanes] of `kind` from raw accesses of `count` elements."""
    values = np.ascontiguousarray(raw).view(kind).reshape(-1, count)
    if np.ndim(raw) == 0:
        return [values[0, i] for i in range(count)]
    return np.ascontiguousarray(values.T)


def rows(values: tuple[Lanes, ...], lanes: int) -> Any:
    """[lanes, count]: the elements of a vector store side by side."""
    out = np.empty((lanes, len(values)), values[0].dtype)
    for i, value in enumerate(values):
        out[:, i] = value
    return out


def pack(values: tuple[Lanes, ...], kind: Any) -> Lanes:
    """Join narrow values to a wide one, the first in the lowest bits."""
    width = 8 * values[0].dtype.itemsize
    out = values[0].astype(kind)
    for i, value in enumerate(values[1:], 1):
        out = out | (value.astype(kind) << kind(i * width))
    return out


def all_ones(flag: Lanes) -> Lanes:
    """0xffffffff where true, else 0."""
    return np.negative(flag.astype(np.int32)).view(U4)


# -------------------------------------------------------------- integers


def saturating(wide: Lanes) -> Lanes:
    return np.clip(wide, -(2**31), 2**31 - 1).astype(np.int32)


def mul_hi(a: Lanes, b: Lanes) -> Lanes:
    """The upper half of the product."""
    kind = a.dtype
    if kind.itemsize < 8:
        wide = np.dtype(f"{kind.kind}{2 * kind.itemsize}").type
        shift = wide(8 * kind.itemsize)
        return ((a.astype(wide) * b.astype(wide)) >> shift).astype(kind)
    x, y = a.view(U8), b.view(U8)
    low, half = U8(0xFFFFFFFF), U8(32)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + ((x0 * y0) >> half)
    high = x1 * y1 + (middle >> half) + ((x0 * y1 + (middle & low)) >> half)
    if kind.kind == "i":
        high = high - np.where(a < 0, y, U8(0)) - np.where(b < 0, x, U8(0))
    return high.view(kind)


def distance(a: Lanes, b: Lanes) -> Lanes:
    """|a - b| without overflow, unsigned."""
    unsigned = f"u{a.dtype.itemsize}"
    return np.where(a < b, b.view(unsigned) - a.view(unsigned), a.view(unsigned) - b.view(unsigned))


def mul24(a: Lanes, b: Lanes, shift: int) -> Lanes:
    """Bits shift .. shift+31 of the product of the low 24 bits."""
    kind, wide = a.dtype, (I8 if a.dtype.kind == "i" else U8)
    left = (a << kind.type(8)).astype(wide) >> wide(8)
    right = (b << kind.type(8)).astype(wide) >> wide(8)
    return ((left * right) >> wide(shift)).astype(kind)


def int_div(a: Lanes, b: Lanes) -> Lanes:
    """Quotient towards zero; all ones where the divisor is zero, as hardware gives."""
    zero = b == 0
    divisor = np.where(zero, b.dtype.type(1), b) if zero.any() else b
    if a.dtype.kind == "u":
        quotient = a // divisor
    else:
        unsigned = f"u{a.dtype.itemsize}"
        magnitude = np.abs(a).view(unsigned) // np.abs(divisor).view(unsigned)
        signed = magnitude.view(a.dtype)
        quotient = np.where((a < 0) != (divisor < 0), np.negative(signed), signed)
    if np.count_nonzero(zero):
        return np.where(zero, ~a.dtype.type(0), quotient)
    return quotient


def int_rem(a: Lanes, b: Lanes) -> Lanes:
    """Remainder with the sign of the dividend; all ones where the divisor is zero, as for div."""
    remainder = a - int_div(a, b) * b
    zero = b == 0
    if np.count_nonzero(zero):
        return np.where(zero, ~a.dtype.type(0), remainder)
    return remainder


def popc(a: Lanes) -> Lanes:
    table = np.take(_BYTE_POPC, np.ascontiguousarray(a)[..., None].view(np.uint8))
    return table.sum(-1, dtype=U4).reshape(np.shape(a))[()]


def brev(a: Lanes) -> Lanes:
    flipped = np.take(_BYTE_REV, np.ascontiguousarray(a)[..., None].view(np.uint8))[..., ::-1]
    return np.ascontiguousarray(flipped).view(a.dtype).reshape(np.shape(a))[()]


def _smear(a: Lanes) -> Lanes:
    """Every bit below the highest set one, set."""
    kind = a.dtype.type
    shift = 1
    while shift < 8 * a.dtype.itemsize:
        a = a | (a >> kind(shift))
        shift *= 2
    return a


def clz(a: Lanes) -> Lanes:
    return U4(8 * a.dtype.itemsize) - popc(_smear(a))


def bfind(a: Lanes, shiftamt: bool) -> Lanes:
    """Position of the highest bit that differs from the sign; 0xffffffff when there is none."""
    unsigned = f"u{a.dtype.itemsize}"
    value = np.where(a < 0, ~a, a).view(unsigned) if a.dtype.kind == "i" else a
    top = popc(_smear(value)) - U4(1)
    if not shiftamt:
        return top
    return np.where(value == 0, U4(0xFFFFFFFF), U4(8 * a.dtype.itemsize - 1) - top)


def bfe(a: Lanes, start: Lanes, count: Lanes) -> Lanes:
    """`count` bits from bit `start`; signed types extend the field's top bit."""
    kind, bits = a.dtype, 8 * a.dtype.itemsize
    unsigned = np.dtype(f"u{kind.itemsize}").type
    start, count = start & U4(0xFF), count & U4(0xFF)
    moved = a >> np.minimum(start, U4(64)).astype(kind)
    kept = np.minimum(count, U4(bits))
    mask = _ones(kept, unsigned)
    field = moved.view(unsigned) & mask
    if kind.kind == "u":
        return field
    top = np.minimum(start + np.maximum(count, U4(1)) - U4(1), U4(bits - 1)).astype(kind)
    negative = ((a >> top) & kind.type(1)).astype(bool) & (count > 0)
    return np.where(negative, field | ~mask, field).view(kind)


def _ones(count: Lanes, kind: Any) -> Lanes:
    """The lowest `count` bits set."""
    width = kind(8 * np.dtype(kind).itemsize)
    full = kind(~kind(0))
    return np.where(count == 0, kind(0), full >> (width - np.maximum(count, U4(1)).astype(kind)))


def bfi(a: Lanes, b: Lanes, start: Lanes, count: Lanes) -> Lanes:
    """Insert the low `count` bits of `a` into `b` at bit `start`."""
    kind, bits = a.dtype.type, 8 * a.dtype.itemsize
    start, count = start & U4(0xFF), count & U4(0xFF)
    shift = np.minimum(start, U4(64)).astype(kind)
    mask = _ones(np.minimum(count, U4(bits)), kind) << shift
    return (b & ~mask) | ((a << shift) & mask)


def szext(a: Lanes, count: Lanes, wrap: bool) -> Lanes:
    """Sign- or zero-extend the low `count` bits."""
    count = count & U4(31) if wrap else np.minimum(count, U4(32))
    return bfe(a, U4(0), count)


def bmsk(start: Lanes, count: Lanes, wrap: bool) -> Lanes:
    """`count` ones from bit `start`."""
    start = start & U4(31) if wrap else start
    count = count & U4(31) if wrap else np.minimum(count, U4(32))
    return _ones(count, U4) << np.minimum(start, U4(32))


def dp4a(a: Lanes, b: Lanes, c: Lanes, a_signed: bool, b_signed: bool, half: str) -> Lanes:
    """c plus the sum of four byte products."""
    total = c.view(U4)
    for i in range(4):
        total = total + _part(a, i, 8, a_signed) * _part(b, i, 8, b_signed)
    return total.view(c.dtype)


def dp2a(a: Lanes, b: Lanes, c: Lanes, a_signed: bool, b_signed: bool, half: str) -> Lanes:
    """c plus two products of 16-bit parts of `a` and bytes of a half of `b`."""
    total = c.view(U4)
    for i in range(2):
        byte = i + (2 if half == "hi" else 0)
        total = total + _part(a, i, 16, a_signed) * _part(b, byte, 8, b_signed)
    return total.view(c.dtype)


def _part(a: Lanes, index: int, width: int, signed: bool) -> Lanes:
    raised = a << U4(32 - width * (index + 1))
    if signed:
        return (raised.view(np.int32) >> np.int32(32 - width)).view(U4)
    return raised >> U4(32 - width)


def lop3(a: Lanes, b: Lanes, c: Lanes, table: int) -> Lanes:
    """Any logic function of three inputs, by its truth table."""
    known = {0xC0: lambda: a & b, 0xFC: lambda: a | b, 0x3C: lambda: a ^ b}
    if table in known:
        return known[table]()
    out = (a & U4(0)) | (b & U4(0)) | (c & U4(0))
    for case in range(8):
        if table >> case & 1:
            term = (a if case & 4 else ~a) & (b if case & 2 else ~b) & (c if case & 1 else ~c)
            out = out | term
    return out


def shf(low: Lanes, high: Lanes, count: Lanes, left: bool, wrap: bool) -> Lanes:
    """Funnel shift of high:low; the upper word for left, the lower for right."""
    count = (count & U4(31) if wrap else np.minimum(count, U4(32))).astype(U8)
    both = (high.astype(U8) << U8(32)) | low.astype(U8)
    if left:
        return ((both << count) >> U8(32)).astype(U4)
    return (both >> count).astype(U4)


_PRMT_MODES = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}


def prmt(a: Lanes, b: Lanes, selector: Lanes, mode: str) -> Lanes:
    """Pick four bytes of b:a; a selector's bit 3 replicates the byte's sign."""
    both = (b.astype(U8) << U8(32)) | a.astype(U8)
    if mode:
        choices = np.array(_PRMT_MODES[mode], U8)[(selector & U4(3)).astype(np.intp)]
        out = U8(0)
        for i in range(4):
            chosen = choices[..., 3 - i]
            out = out | (((both >> (chosen << U8(3))) & U8(0xFF)) << U8(8 * i))
        return out.astype(U4)
    if np.ndim(selector) == 0:
        return _prmt_fixed(both, int(selector))
    out = U4(0)
    for i in range(4):
        nibble = (selector >> U4(4 * i)) & U4(0xF)
        byte = ((both >> ((nibble & U4(7)) << U4(3)).astype(U8)) & U8(0xFF)).astype(U4)
        sign = np.where(byte & U4(0x80), U4(0xFF), U4(0))
        out = out | (np.where(nibble & U4(8), sign, byte) << U4(4 * i * 2))
    return out


def _prmt_fixed(both: Lanes, selector: int) -> Lanes:
    """The usual case: one selector for all lanes, so each byte is a plain copy."""
    if np.ndim(both) == 0:
        source = np.array([both]).view(np.uint8).reshape(1, 8)
    else:
        source = np.ascontiguousarray(both).view(np.uint8).reshape(-1, 8)
    out = np.empty((source.shape[0], 4), np.uint8)
    for i in range(4):
        nibble = selector >> (4 * i) & 0xF
        byte = source[:, nibble & 7]
        out[:, i] = byte if nibble < 8 else (byte >> 7) * np.uint8(0xFF)
    joined = out.view(U4).reshape(-1)
    return joined[0] if np.ndim(both) == 0 else joined
