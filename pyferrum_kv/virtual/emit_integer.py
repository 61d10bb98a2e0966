"""Integer, logic, shift, select and predicate forms."""

from __future__ import annotations

from pyferrum_kv.virtual.codegen import Emitter
from pyferrum_kv.virtual.form import Form, Modifiers, NotEmulated, opcode
from pyferrum_kv.virtual.program import TYPE_BYTES, Imm, Instruction, Pair, Sink

SIGNED = ("s16", "s32", "s64")
UNSIGNED = ("u16", "u32", "u64")
INTEGERS = SIGNED + UNSIGNED
BITS = ("b16", "b32", "b64")
HALF = ("f16", "f16x2", "bf16", "bf16x2")
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def is_integer(m: Modifiers) -> bool:
    return m.opcode.rsplit(".", 1)[-1] in INTEGERS


def bits(ptx_type: str) -> str:
    """The unsigned type of the same width: wrapping arithmetic is the same for both signs."""
    return f"u{8 * TYPE_BYTES[ptx_type]}"


def add_sub(m: Modifiers, sign: str) -> Form:
    t = m.type(*INTEGERS)
    if m.maybe("sat"):
        if t != "s32":
            raise NotEmulated(f".sat.{t} is not emulated")
        return Form((t,), (t, t), f"N.saturating({{0}}.astype(i8) {sign} {{1}}.astype(i8))")
    return Form((bits(t),), (bits(t), bits(t)), f"{{0}} {sign} {{1}}")


def multiply(m: Modifiers) -> Form:
    t = m.type(*INTEGERS)
    part = m.next("lo", "hi", "wide")
    return Form(*_product(t, part))


def _product(t: str, part: str) -> tuple[tuple[str], tuple[str, str], str]:
    if part == "lo":
        return (bits(t),), (bits(t), bits(t)), "{0} * {1}"
    if part == "hi":
        return (t,), (t, t), "N.mul_hi({0}, {1})"
    if t not in WIDER:
        raise NotEmulated(f".wide.{t} is no form")
    wide = WIDER[t]
    return (wide,), (t, t), f"{{0}}.astype({numpy_name(wide)}) * {{1}}.astype({numpy_name(wide)})"


def numpy_name(t: str) -> str:
    return ("i" if t[0] == "s" else "u") + str(TYPE_BYTES[t])


def mad(m: Modifiers) -> Form:
    t = m.type(*INTEGERS)
    part = m.next("lo", "hi", "wide")
    result, sources, code = _product(t, part)
    if m.maybe("sat"):
        if (part, t) != ("hi", "s32"):
            raise NotEmulated("mad.sat is for .hi.s32")
        return Form((t,), (t, t, t), f"N.saturating(({code}).astype(i8) + {{2}}.astype(i8))")
    return Form(result, (*sources, result[0]), f"({code}) + {{2}}")


@opcode("sad")
def _sad(m: Modifiers) -> Form:
    t = m.type(*INTEGERS)
    return Form((bits(t),), (t, t, bits(t)), "N.distance({0}, {1}) + {2}")


@opcode("mul24", "mad24")
def _mul24(m: Modifiers) -> Form:
    t = m.type("u32", "s32")
    part = m.next("lo", "hi")
    code = f"N.mul24({{0}}, {{1}}, {16 if part == 'hi' else 0})"
    if m.base == "mad24":
        return Form((t,), (t, t, t), code + " + {2}")
    return Form((t,), (t, t), code)


def divide(m: Modifiers) -> Form:
    t = m.type(*INTEGERS)
    return Form((t,), (t, t), "N.int_div({0}, {1})")


@opcode("rem")
def _rem(m: Modifiers) -> Form:
    t = m.type(*INTEGERS)
    return Form((t,), (t, t), "N.int_rem({0}, {1})")


def absolute(m: Modifiers) -> Form:
    t = m.type(*SIGNED)
    return Form((t,), (t,), "np.abs({0})")


def negate(m: Modifiers) -> Form:
    t = m.type(*SIGNED)
    return Form((t,), (t,), "np.negative({0})")


def extreme(m: Modifiers) -> Form:
    t = m.type(*INTEGERS)
    return Form((t,), (t, t), f"np.{m.base}imum({{0}}, {{1}})")


@opcode("popc", "clz", "bfind", "brev")
def _count(m: Modifiers) -> Form:
    if m.base == "bfind":
        t = m.type("u32", "s32", "u64", "s64")
        shift = bool(m.maybe("shiftamt"))
        return Form(("u32",), (t,), f"N.bfind({{0}}, {shift})")
    t = m.type("b32", "b64")
    return Form((t if m.base == "brev" else "u32",), (t,), f"N.{m.base}({{0}})")


@opcode("bfe")
def _bfe(m: Modifiers) -> Form:
    t = m.type("u32", "s32", "u64", "s64")
    return Form((t,), (t, "u32", "u32"), "N.bfe({0}, {1}, {2})")


@opcode("bfi")
def _bfi(m: Modifiers) -> Form:
    t = m.type("b32", "b64")
    return Form((t,), (t, t, "u32", "u32"), "N.bfi({0}, {1}, {2}, {3})")


@opcode("szext")
def _szext(m: Modifiers) -> Form:
    t = m.type("u32", "s32")
    mode = m.next("clamp", "wrap")
    return Form((t,), (t, "u32"), f"N.szext({{0}}, {{1}}, {mode == 'wrap'})")


@opcode("bmsk")
def _bmsk(m: Modifiers) -> Form:
    m.type("b32")
    mode = m.next("clamp", "wrap")
    return Form(("u32",), ("u32", "u32"), f"N.bmsk({{0}}, {{1}}, {mode == 'wrap'})")


@opcode("dp4a", "dp2a")
def _dot(m: Modifiers) -> Form:
    second, first = m.type("u32", "s32"), m.type("u32", "s32")
    half = m.next("lo", "hi") if m.base == "dp2a" else ""
    result = "s32" if "s32" in (first, second) else "u32"
    code = f"N.{m.base}({{0}}, {{1}}, {{2}}, {first == 's32'}, {second == 's32'}, {half!r})"
    return Form((result,), ("u32", "u32", result), code)


@opcode("and", "or", "xor")
def _logic(m: Modifiers) -> Form:
    t = m.type("pred", *BITS)
    t = t if t == "pred" else bits(t)
    sign = {"and": "&", "or": "|", "xor": "^"}[m.base]
    return Form((t,), (t, t), f"{{0}} {sign} {{1}}")


@opcode("not")
def _not(m: Modifiers) -> Form:
    t = m.type("pred", *BITS)
    t = t if t == "pred" else bits(t)
    return Form((t,), (t,), "~{0}")


@opcode("cnot")
def _cnot(m: Modifiers) -> Form:
    t = bits(m.type(*BITS))
    return Form((t,), (t,), f"({{0}} == 0).astype({numpy_name(t)})")


@opcode("lop3")
def _lop3(m: Modifiers) -> Form:
    m.type("b32")
    return Form(("u32",), ("u32", "u32", "u32", "imm"), "N.lop3({0}, {1}, {2}, {3})")


@opcode("shl", "shr")
def _shift(m: Modifiers) -> Form:
    t = m.type(*BITS) if m.base == "shl" else m.type(*BITS, *INTEGERS)
    t = t if t in SIGNED else bits(t)
    sign = "<<" if m.base == "shl" else ">>"

    def emit(e: Emitter, instruction: Instruction) -> None:
        # NumPy clamps shift counts as PTX does (all bits out, or all sign) once they fit the type
        target, value, count = instruction.operands
        if isinstance(count, Imm):
            by = e.constant(min(count.value & 0xFFFFFFFF, 64), t)
        elif t == "u32":
            by = e.use(count, "u32")
        else:
            bounded = f"np.minimum({e.use(count, 'u32')}, {e.constant(64, 'u32')})"
            by = f"{bounded}.astype({numpy_name(t)})"
        e.define(target, t, f"{e.use(value, t)} {sign} {by}")

    return Form((t,), (t, "u32"), emit)


@opcode("shf")
def _funnel(m: Modifiers) -> Form:
    m.type("b32")
    side, mode = m.next("l", "r"), m.next("clamp", "wrap")
    code = f"N.shf({{0}}, {{1}}, {{2}}, {side == 'l'}, {mode == 'wrap'})"
    return Form(("u32",), ("u32", "u32", "u32"), code)


@opcode("prmt")
def _prmt(m: Modifiers) -> Form:
    m.next("b32")
    mode = m.maybe("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    return Form(("u32",), ("u32", "u32", "u32"), f"N.prmt({{0}}, {{1}}, {{2}}, {mode!r})")


# ----------------------------------------------------------- comparisons

_ORDERED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOWER = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}


def _comparison(name: str, t: str) -> str:
    """An expression over {0} and {1}; in ordered comparisons a NaN gives false."""
    is_float = t in ("f32", "f64", *HALF)
    if name in _LOWER and t[0] in "ub":
        name = _LOWER[name]
    if name in ("num", "nan") and is_float:
        joined = "(np.isnan({0}) | np.isnan({1}))"
        return joined if name == "nan" else "~" + joined
    if name in _UNORDERED and is_float:
        plain = _ORDERED[_UNORDERED[name]]
        return f"(({{0}} {plain} {{1}}) | np.isnan({{0}}) | np.isnan({{1}}))"
    if name not in _ORDERED or (t[0] == "b" and not is_float and name not in ("eq", "ne")):
        raise NotEmulated(f"comparison .{name}.{t} is not emulated")
    if name == "ne" and is_float:  # ordered: NumPy's != is true for NaN
        return "(({0} < {1}) | ({0} > {1}))"
    return f"({{0}} {_ORDERED[name]} {{1}})"


_COMPARED = (*BITS, *INTEGERS, "f32", "f64", "f16", "bf16")


@opcode("setp", "set")
def _setp(m: Modifiers) -> Form:
    t = m.type(*_COMPARED)
    result = "" if m.base == "setp" else m.type("u32", "s32", "f32")
    name = m.next(*_ORDERED, *_LOWER, *_UNORDERED, "num", "nan")
    combine = m.maybe("and", "or", "xor")
    ftz = m.maybe("ftz")
    if ftz and t != "f32":
        raise NotEmulated(f"setp.ftz.{t} is not emulated")
    operand = t if t[0] in "sf" else bits(t) if t != "bf16" else t
    code = _comparison(name, t)
    a, b = ("N.ftz({0})", "N.ftz({1})") if ftz else ("{0}", "{1}")
    if t == "bf16":
        a, b = "N.from_bf16({0})", "N.from_bf16({1})"
    code = code.replace("{0}", a).replace("{1}", b)
    third = ("pred",) if combine else ()
    sign = {"and": "&", "or": "|", "xor": "^", "": ""}[combine]
    if m.base == "set":
        code = f"({code} {sign} {{2}})" if combine else code
        value = "N.all_ones({})" if result != "f32" else "{}.astype(f4)"
        return Form(
            ("u32" if result != "f32" else result,), (operand, operand, *third), value.format(code)
        )

    def emit(e: Emitter, instruction: Instruction) -> None:
        target, first, second, *rest = instruction.operands
        values = [e.use(first, operand), e.use(second, operand)]
        compared = e.temp(code.format(*values))
        both = target if isinstance(target, Pair) else Pair(target, Sink())
        with_c = f" {sign} {e.use(rest[0], 'pred')}" if rest else ""
        opposite = e.temp(f"~{compared}{with_c}") if not isinstance(both.second, Sink) else ""
        if not isinstance(both.first, Sink):
            e.define(both.first, "pred", compared + with_c)
        if opposite:
            e.define(both.second, "pred", opposite)

    return Form(("pair:pred",), (operand, operand, *third), emit)


@opcode("selp")
def _selp(m: Modifiers) -> Form:
    t = m.type(*BITS, *INTEGERS, "f32", "f64")
    t = t if t[0] == "f" else bits(t)
    return Form((t,), (t, t, "pred"), "np.where({2}, {0}, {1})")


@opcode("slct")
def _slct(m: Modifiers) -> Form:
    selector = m.type("s32", "f32")
    t = m.type(*BITS, *INTEGERS, "f32", "f64")
    ftz = m.maybe("ftz")  # a flushed subnormal is zero: -0 counts as >= 0
    t = t if t[0] == "f" else bits(t)
    chosen = "N.ftz({2})" if ftz and selector == "f32" else "{2}"
    return Form((t,), (t, t, selector), f"np.where({chosen} >= 0, {{0}}, {{1}})")
