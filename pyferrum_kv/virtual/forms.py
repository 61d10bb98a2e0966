"""All opcode forms together, and the check of an instruction's operands against its form."""

from __future__ import annotations

from pyferrum_kv.ptx_reader import PtxSyntaxError
from pyferrum_kv.virtual import (  # noqa: F401 - each enters its forms in the table
    emit_convert,
    emit_float,
    emit_flow,
    emit_integer,
    emit_memory,
    emit_warp,
)
from pyferrum_kv.virtual.form import Form, NotEmulated, find_form
from pyferrum_kv.virtual.program import (
    TYPE_BYTES,
    Address,
    Imm,
    Instruction,
    Not,
    Operand,
    Pair,
    Reg,
    Sink,
    Special,
    Symbol,
    Vector,
)

__all__ = ["OPCODES", "Form", "NotEmulated", "check_operands", "find_form"]

# fmt: off
OPCODES = frozenset((
    "abs", "activemask", "add", "addc", "alloca", "and", "applypriority", "atom", "bar",
    "barrier", "bfe", "bfi", "bfind", "bmsk", "bra", "brev", "brkpt", "brx", "call",
    "clusterlaunchcontrol", "clz", "cnot", "copysign", "cos", "cp", "createpolicy", "cvt", "cvta",
    "discard", "div", "dp2a", "dp4a", "elect", "ex2", "exit", "fence", "fma", "fns", "getctarank",
    "griddepcontrol", "isspacep", "istypep", "ld", "ldmatrix", "ldu", "lg2", "lop3", "mad",
    "mad24", "madc", "mapa", "match", "max", "mbarrier", "membar", "min", "mma", "mov",
    "movmatrix", "mul", "mul24", "multimem", "nanosleep", "neg", "not", "or", "pmevent", "popc",
    "prefetch", "prefetchu", "prmt", "rcp", "red", "redux", "rem", "ret", "rsqrt", "sad", "selp",
    "set", "setmaxnreg", "setp", "shf", "shfl", "shl", "shr", "sin", "slct", "sqrt", "st",
    "stackrestore", "stacksave", "stmatrix", "sub", "subc", "suld", "suq", "sured", "sust",
    "szext", "tanh", "tcgen05", "tensormap", "testp", "tex", "tld4", "trap", "txq", "vabsdiff",
    "vabsdiff2", "vabsdiff4", "vadd", "vadd2", "vadd4", "vavrg2", "vavrg4", "vmad", "vmax",
    "vmax2", "vmax4", "vmin", "vmin2", "vmin4", "vote", "vset", "vset2", "vset4", "vshl", "vshr",
    "vsub", "vsub2", "vsub4", "wgmma", "wmma", "xor",
))
# fmt: on
"""Every opcode of PTX: what is none of them is a mistake, not something that is not emulated."""
_FITTING: set[tuple[str | None, ...]] = set()  # (opcode, register types) that were found to fit
SPACES = frozenset(("global", "shared", "local", "const", "param", "generic"))


def check_operands(instruction: Instruction, form: Form) -> None:
    """PtxSyntaxError where the operands do not fit the form."""
    wanted = form.results + form.sources
    key = (instruction.opcode, *[o.type if type(o) is Reg else None for o in instruction.operands])
    if key in _FITTING:
        return
    required = sum(not w.endswith("?") for w in wanted)
    if not required <= len(instruction.operands) <= len(wanted):
        counts = f"{required}" if required == len(wanted) else f"{required} to {len(wanted)}"
        raise PtxSyntaxError(
            instruction.line,
            f"{instruction.opcode} has {len(instruction.operands)} operands; wanted {counts}",
        )
    for i, (operand, spec) in enumerate(zip(instruction.operands, wanted, strict=False)):
        is_result = i < len(form.results)
        problem = _mismatch(operand, spec.rstrip("?"), is_result)
        if problem:
            raise PtxSyntaxError(instruction.line, f"{instruction.text}: {problem}")
    if None not in key:
        _FITTING.add(key)


def _mismatch(operand: Operand, spec: str, is_result: bool) -> str:
    if spec in SPACES:
        is_address = isinstance(operand, Address)
        if is_address and isinstance(operand.base, Reg):  # type: ignore[union-attr]
            return _address_width(operand.base, spec)  # type: ignore[union-attr]
        return "" if is_address else f"wanted an address of .{spec}"
    if spec == "any":
        return ""
    if spec.startswith("mov:"):
        if not isinstance(operand, Vector):
            return _value_mismatch(operand, spec[4:], is_result)
        part, rest = divmod(TYPE_BYTES[spec[4:]], len(operand.items))
        if rest or spec[4] == "p" or part not in (1, 2, 4, 8):
            return f"{len(operand.items)} parts do not make a .{spec[4:]}"
        problems = (_mismatch(item, f"b{8 * part}", is_result) for item in operand.items)
        return next((p for p in problems if p), "")
    if spec == "label":
        return "" if isinstance(operand, Symbol) else "wanted a label"
    if spec == "imm":
        return "" if isinstance(operand, Imm) else "wanted an integer literal"
    if spec.startswith("v"):
        count, _, element = spec[1:].partition(":")
        if not isinstance(operand, Vector) or len(operand.items) != int(count):
            return f"wanted a vector of {count}"
        problems = (_mismatch(item, element, is_result) for item in operand.items)
        return next((p for p in problems if p), "")
    if spec.startswith("pair:"):
        if isinstance(operand, Pair):
            second = _mismatch(operand.second, "pred", True)
            return _mismatch(operand.first, spec[5:], True) or second
        return _mismatch(operand, spec[5:], True)
    return _value_mismatch(operand, spec, is_result)


def _value_mismatch(operand: Operand, spec: str, is_result: bool) -> str:
    wide = spec.endswith("+")
    wanted = spec.rstrip("+")
    if isinstance(operand, Sink):
        return "" if is_result else "_ is no source"
    if isinstance(operand, Not):
        return "" if wanted == "pred" and not is_result else "! is for source predicates"
    if isinstance(operand, Reg):
        if (operand.type == "pred") != (wanted == "pred"):
            return f"{operand.name} is .{operand.type}; wanted .{wanted}"
        have, want = TYPE_BYTES[operand.type], TYPE_BYTES[wanted]
        if have == want or (wide and have > want):
            return ""
        return f"{operand.name} is .{operand.type}; wanted .{wanted}"
    if is_result:
        return "a result must be a register"
    if isinstance(operand, (Imm, Special, Symbol)):
        return ""
    return f"wanted a value of .{wanted}"


def _address_width(base: Reg, spec: str) -> str:
    size = TYPE_BYTES[base.type]
    if size == 8 or (size == 4 and spec in ("shared", "local", "param", "const")):
        return ""
    return f"address register {base.name} is .{base.type}; wanted .b64"
