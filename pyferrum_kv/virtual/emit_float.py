"""Floating-point forms, and the opcodes that integers and floats share.

f32 and f64 arithmetic is NumPy's, which rounds correctly. Other rounding modes, fused operations
and the narrow types go through numerics (N). Approximations are computed in float64 and rounded
once.
"""

from __future__ import annotations

from pyferrum_kv.virtual import emit_integer as integer
from pyferrum_kv.virtual.form import Form, Modifiers, NotEmulated, opcode

ROUNDINGS = ("rn", "rz", "rm", "rp")
HALF = integer.HALF


def _wrap(t: str, ftz: bool, sat: bool, code: str, count: int) -> str:
    """Flush the sources and the result, clamp the result."""
    if ftz:
        for i in range(count):
            code = code.replace(f"{{{i}}}", f"N.ftz({{{i}}})")
        code = f"N.ftz({code})"
    return f"N.saturate({code})" if sat else code


def _binary(m: Modifiers, sign: str) -> Form:
    """add, sub and mul of floats."""
    t = m.type("f32", "f64", *HALF)
    rounding = m.maybe(*ROUNDINGS)
    if t in HALF:
        if rounding not in ("", "rn"):
            raise NotEmulated(f".{rounding}.{t} is not emulated")
        ftz, sat = bool(m.maybe("ftz")), bool(m.maybe("sat"))
        if t.startswith("bf") and (ftz or sat):
            raise NotEmulated(f"{m.base} of {t} takes no .ftz or .sat")
        return Form((t,), (t, t), f"N.half_binary({sign!r}, {t!r}, {{0}}, {{1}}, {ftz}, {sat})")
    ftz, sat = bool(m.maybe("ftz")), bool(m.maybe("sat"))
    if t == "f64" and (ftz or sat or rounding not in ("", "rn")):
        raise NotEmulated(f"{m.opcode} is not emulated")
    code = f"{{0}} {sign} {{1}}"
    if rounding not in ("", "rn"):
        code = f"N.directed({sign!r}, {{0}}, {{1}}, {rounding!r})"
    return Form((t,), (t, t), _wrap(t, ftz, sat, code, 2))


@opcode("add", "sub", "mul")
def _arithmetic(m: Modifiers) -> Form:
    if m.base == "mul":
        return integer.multiply(m) if integer.is_integer(m) else _binary(m, "*")
    sign = "+" if m.base == "add" else "-"
    return integer.add_sub(m, sign) if integer.is_integer(m) else _binary(m, sign)


@opcode("fma", "mad")
def _fma(m: Modifiers) -> Form:
    if m.base == "mad" and integer.is_integer(m):
        return integer.mad(m)
    t = m.type("f32", "f64", *HALF)
    rounding = m.maybe(*ROUNDINGS) or "rn"
    ftz, sat, relu = bool(m.maybe("ftz")), bool(m.maybe("sat")), bool(m.maybe("relu"))
    if t in HALF:
        if rounding != "rn" or (sat and relu):
            raise NotEmulated(f"{m.opcode} is not emulated")
        code = f"N.half_fma({t!r}, {{0}}, {{1}}, {{2}}, {ftz}, {sat}, {relu})"
        return Form((t,), (t, t, t), code)
    if relu or (t == "f64" and (ftz or sat or rounding != "rn")):
        raise NotEmulated(f"{m.opcode} is not emulated")
    code = f"N.fma_{t}({{0}}, {{1}}, {{2}})"
    if rounding != "rn":
        code = f"N.fma_directed({{0}}, {{1}}, {{2}}, {rounding!r})"
    return Form((t,), (t, t, t), _wrap(t, ftz, sat, code, 3))


@opcode("div")
def _div(m: Modifiers) -> Form:
    if integer.is_integer(m):
        return integer.divide(m)
    t = m.type("f32", "f64")
    mode = m.next("approx", "full", *ROUNDINGS)
    ftz = bool(m.maybe("ftz"))
    if mode in ("rz", "rm", "rp") or (t == "f64" and (mode != "rn" or ftz)):
        raise NotEmulated(f"{m.opcode} is not emulated")
    code = "N.div_approx({0}, {1})" if mode == "approx" else "{0} / {1}"
    return Form((t,), (t, t), _wrap(t, ftz, False, code, 2))


@opcode("abs", "neg")
def _sign(m: Modifiers) -> Form:
    if integer.is_integer(m):
        return integer.absolute(m) if m.base == "abs" else integer.negate(m)
    t = m.type("f32", "f64", *HALF)
    ftz = bool(m.maybe("ftz"))
    if t in HALF:
        if ftz:
            raise NotEmulated(f"{m.opcode} is not emulated")
        u = integer.bits(t)
        sign, rest = (0x8000, 0x7FFF) if u == "u16" else (0x80008000, 0x7FFF7FFF)
        mask = f"& {integer.numpy_name(u)}({rest})"
        return Form((u,), (u,), "{0} " + (mask if m.base == "abs" else f"^ {mask[2:4]}({sign})"))
    code = "np.abs({0})" if m.base == "abs" else "np.negative({0})"
    return Form((t,), (t,), f"N.ftz({code})" if ftz else code)


@opcode("min", "max")
def _extreme(m: Modifiers) -> Form:
    if integer.is_integer(m):
        return integer.extreme(m)
    t = m.type("f32", "f64", *HALF)
    ftz, nan = bool(m.maybe("ftz")), bool(m.maybe("NaN"))
    if m.maybe("xorsign"):
        raise NotEmulated(".xorsign is not emulated")
    if t in HALF:
        return Form((t,), (t, t), f"N.half_extreme({m.base!r}, {t!r}, {{0}}, {{1}}, {nan}, {ftz})")
    code = f"N.float_{m.base}({{0}}, {{1}}, {nan})"
    return Form((t,), (t, t), _wrap(t, ftz, False, code, 2))


@opcode("rcp", "sqrt")
def _root(m: Modifiers) -> Form:
    t = m.type("f32", "f64")
    mode = m.next("approx", "rn")
    ftz = bool(m.maybe("ftz"))
    if t == "f64" and (mode != "rn" or ftz):
        raise NotEmulated(f"{m.opcode} is not emulated")
    one = "f4(1)" if t == "f32" else "f8(1)"
    code = f"{one} / {{0}}" if m.base == "rcp" else "np.sqrt({0})"
    return Form((t,), (t,), _wrap(t, ftz, False, code, 1))


@opcode("rsqrt", "sin", "cos", "lg2", "ex2", "tanh")
def _approximation(m: Modifiers) -> Form:
    t = m.type("f32", "f64", *HALF)
    m.next("approx")
    ftz = bool(m.maybe("ftz"))
    if t in HALF:
        if m.base not in ("ex2", "tanh") or ftz != (m.base == "ex2" and t.startswith("bf")):
            raise NotEmulated(f"{m.opcode} is not emulated")
        return Form((t,), (t,), f"N.half_unary({m.base!r}, {t!r}, {{0}})")
    if t == "f64":
        raise NotEmulated(f"{m.opcode} is not emulated")
    if m.base == "tanh" and ftz:
        raise NotEmulated("tanh takes no .ftz")
    return Form((t,), (t,), _wrap(t, ftz, False, f"N.{m.base}({{0}})", 1))


@opcode("copysign")
def _copysign(m: Modifiers) -> Form:
    t = m.type("f32", "f64")
    return Form((t,), (t, t), "np.copysign({1}, {0})")


@opcode("testp")
def _testp(m: Modifiers) -> Form:
    t = m.type("f32", "f64")
    test = m.next("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    return Form(("pred",), (t,), f"N.testp({test!r}, {{0}})")
