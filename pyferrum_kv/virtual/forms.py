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

__all__ = ["Form", "NotEmulated", "check_instruction", "find_form"]

_FITTING: set[tuple[str | None, ...]] = set()  # (opcode, register types) that were found to fit
SPACES = frozenset(("global", "shared", "local", "const", "param", "generic"))


def check_instruction(instruction: Instruction) -> str:
    """Why the form is not emulated, or an empty string. PtxSyntaxError: operands do not fit."""
    try:
        form = find_form(instruction.opcode)
    except NotEmulated as refusal:
        return str(refusal)
    wanted = form.results + form.sources
    key = (instruction.opcode, *[o.type if type(o) is Reg else None for o in instruction.operands])
    if key in _FITTING and None not in key:
        return ""
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
    _FITTING.add(key)
    return ""


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
