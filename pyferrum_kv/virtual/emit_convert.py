"""mov, cvt, cvta and their relatives: values change type, width or address space."""

from __future__ import annotations

from pyferrum_kv.virtual.codegen import Emitter
from pyferrum_kv.virtual.emit_integer import BITS, INTEGERS, bits, numpy_name
from pyferrum_kv.virtual.form import Form, Modifiers, NotEmulated, opcode
from pyferrum_kv.virtual.program import TYPE_BYTES, Instruction, Sink, Vector
from pyferrum_kv.virtual.windows import LOCAL_WINDOW, SHARED_WINDOW

INT8 = ("u8", "s8")
NARROW_FLOATS = ("f16", "bf16")
FLOATS = ("f16", "bf16", "f32", "f64")
INTEGER_ROUNDINGS = ("rni", "rzi", "rmi", "rpi")


@opcode("mov")
def _mov(m: Modifiers) -> Form:
    t = m.type("pred", *BITS, *INTEGERS, "f32", "f64")
    t = t if t in ("pred", "f32", "f64") else bits(t)

    def emit(e: Emitter, instruction: Instruction) -> None:
        target, source = instruction.operands
        if isinstance(source, Vector):  # pack, lowest first
            part = f"u{8 * TYPE_BYTES[t] // len(source.items)}"
            values = ", ".join(e.use(item, part) for item in source.items)
            e.define(target, t, f"N.pack(({values},), {numpy_name(t)})")
        elif isinstance(target, Vector):
            part = f"u{8 * TYPE_BYTES[t] // len(target.items)}"
            value = e.use(source, t)
            for i, item in enumerate(target.items):
                if not isinstance(item, Sink):
                    shifted = f"({value} >> {e.constant(i * 8 * TYPE_BYTES[part], t)})"
                    e.define(item, part, f"{shifted}.astype({numpy_name(part)})")
        else:
            e.define(target, t, e.use(source, t))

    return Form((f"mov:{t}",), (f"mov:{t}",), emit)


@opcode("cvt")
def _cvt(m: Modifiers) -> Form:
    source = m.type(*INT8, *INTEGERS, *FLOATS)
    target = m.type(*INT8, *INTEGERS, *FLOATS, "f16x2", "bf16x2", "tf32")
    rounding = m.maybe("rn", "rz", "rm", "rp", "rna", *INTEGER_ROUNDINGS)
    ftz = bool(m.maybe("ftz"))
    sat, relu = bool(m.maybe("sat")), bool(m.maybe("relu"))
    from_float, to_float = source in FLOATS, target in (*FLOATS, "f16x2", "bf16x2", "tf32")
    if ftz and "f32" not in (source, target):
        raise NotEmulated(f"{m.opcode} is not emulated")
    if relu and target not in ("f16", "bf16", "f16x2", "bf16x2"):
        raise NotEmulated(f"{m.opcode} is not emulated")
    if target in ("f16x2", "bf16x2"):
        if source != "f32" or rounding not in ("rn", "rz") or sat or ftz:
            raise NotEmulated(f"{m.opcode} is not emulated")
        code = f"N.cvt_pair({{0}}, {{1}}, {target!r}, {rounding!r}, {relu})"
        return Form((target,), ("f32", "f32"), code)
    if target == "tf32":
        if (source, rounding) != ("f32", "rna") or ftz or sat:
            raise NotEmulated(f"{m.opcode} is not emulated")
        return Form(("u32",), ("f32",), "N.cvt_tf32({0})")
    if from_float and to_float:
        return _float_to_float(m, source, target, rounding, ftz, sat, relu)
    if from_float:
        return _float_to_integer(m, source, target, rounding, ftz, sat)
    if to_float:
        if rounding not in ("rn", "rz", "rm", "rp") or target == "bf16":
            raise NotEmulated(f"{m.opcode} is not emulated")
        code = f"N.int_to_float({{0}}, {target!r}, {rounding!r}, {sat})"
        return Form((target,), (source + "+",), code)
    if rounding:
        raise NotEmulated(f"{m.opcode} is not emulated")
    return _integer_to_integer(source, target, sat)


def _integer_to_integer(source: str, target: str, sat: bool) -> Form:
    """Truncate or extend; a wider result register is extended by the sign of the target type."""

    def emit(e: Emitter, instruction: Instruction) -> None:
        result, value = instruction.operands
        code = e.use(value, source, wide=True)
        if sat:
            code = f"N.clamp({code}, {numpy_name(target)})"
        elif TYPE_BYTES[source] != TYPE_BYTES[target] or source[0] != target[0]:
            code = f"{code}.astype({numpy_name(target)})"
        e.define_wide(result, target, code)

    return Form((target + "+",), (source + "+",), emit)


def _float_to_integer(
    m: Modifiers, source: str, target: str, rounding: str, ftz: bool, sat: bool
) -> Form:
    if rounding not in INTEGER_ROUNDINGS or source == "bf16" or (ftz and source != "f32"):
        raise NotEmulated(f"{m.opcode} is not emulated")

    def emit(e: Emitter, instruction: Instruction) -> None:
        result, value = instruction.operands
        operand = e.use(value, source)
        operand = f"N.ftz({operand})" if ftz else operand
        e.define_wide(
            result, target, f"N.float_to_int({operand}, {numpy_name(target)}, {rounding!r})"
        )

    return Form((target + "+",), (source,), emit)


def _float_to_float(
    m: Modifiers, source: str, target: str, rounding: str, ftz: bool, sat: bool, relu: bool
) -> Form:
    narrows = TYPE_BYTES[target] < TYPE_BYTES[source] or {source, target} == set(NARROW_FLOATS)
    if source == target:
        if source == "bf16" or (rounding and rounding not in INTEGER_ROUNDINGS) or relu:
            raise NotEmulated(f"{m.opcode} is not emulated")
        code = f"N.to_integral({{0}}, {rounding!r})" if rounding else "{0}"
        if ftz:
            code = f"N.ftz({code.replace('{0}', 'N.ftz({0})')})"
        return Form((target,), (source,), f"N.saturate({code})" if sat else code)
    if rounding in INTEGER_ROUNDINGS or rounding == "rna" or narrows != bool(rounding):
        raise NotEmulated(f"{m.opcode} is not emulated")
    code = "{0}"
    if source == "f32" and ftz:
        code = "N.ftz({0})"
    if source == "bf16":
        code = "N.from_bf16({0})"
    code = f"N.cvt_float({code}, {target!r}, {rounding!r}, {sat}, {relu})"
    if target == "f32" and ftz:
        code = f"N.ftz({code})"
    return Form((target,), (source,), code)


@opcode("cvta")
def _cvta(m: Modifiers) -> Form:
    m.type("u64")
    to = bool(m.maybe("to"))
    space = m.next("global", "const", "shared", "local", "param")
    if space == "param":
        raise NotEmulated("generic addresses of parameters are not emulated")
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space, 0)
    code = "{0}" if not window else f"{{0}} {'-' if to else '+'} u8({window})"
    return Form(("u64",), ("u64",), code)


@opcode("isspacep")
def _isspacep(m: Modifiers) -> Form:
    space = m.next("global", "const", "shared", "local")
    if space == "const":
        raise NotEmulated("isspacep.const is not emulated")
    return Form(("pred",), ("u64",), f"W.is_in({{0}}, {space!r})")
