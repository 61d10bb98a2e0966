"""Instructions -> Python source: one function for a run of segments, over arrays of lanes.

A register is a local variable that holds an array with one element a lane, or a NumPy scalar
where all lanes agree. Integers are kept unsigned, predicates as bool; other types are views. The
body knows nothing of inactive lanes: the executor hands it the registers of the lanes that run
and blends what it returns; only X, the executor, is told which lanes these are (A).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from pyferrum_kv.virtual import (
    numerics_convert,
    numerics_float,
    numerics_half,
    numerics_integer,
    windows,
)
from pyferrum_kv.virtual.form import find_form
from pyferrum_kv.virtual.program import (
    TYPE_BYTES,
    Address,
    Imm,
    Kernel,
    Not,
    Operand,
    Reg,
    Special,
    Symbol,
)

NUMPY = {
    "pred": "b1",
    **dict.fromkeys(("b8", "u8"), "u1"),
    "s8": "i1",
    **dict.fromkeys(("b16", "u16", "bf16"), "u2"),
    **{"s16": "i2", "f16": "f2"},
    **dict.fromkeys(("b32", "u32", "f16x2", "bf16x2", "tf32"), "u4"),
    **{"s32": "i4", "f32": "f4"},
    **dict.fromkeys(("b64", "u64"), "u8"),
    **{"s64": "i8", "f64": "f8"},
}
KEPT_AS = {**NUMPY, "s8": "u1", "s16": "u2", "f16": "u2", "s32": "u4", "s64": "u8"}
NUMERICS = (numerics_integer, numerics_float, numerics_half, numerics_convert)
NAMESPACE: dict[str, Any] = {
    "np": np,
    "N": SimpleNamespace(**{name: f for module in NUMERICS for name, f in vars(module).items()}),
    "W": windows,
    **{
        n: np.dtype(n).type
        for n in ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
    },
}


class Emitter:
    """The source of one function; forms write to it through `use`, `define`, `line` and `temp`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lines: list[str] = []
        self.live_in: dict[int, Reg] = {}
        self.defined: dict[int, Reg] = {}
        self.constants: dict[str, Any] = {}
        self.site = 0
        self._views: dict[tuple[int, str], str] = {}
        self._temps = 0
        self._guard = ""

    # ------------------------------------------------- for the executor

    def instruction(self, index: int) -> None:
        """Append the statements of one instruction."""
        instruction = self.kernel.instructions[index]
        form = find_form(instruction.opcode)
        self.site = index
        self._guard = ""
        if instruction.guard and form.kind == "pure":
            register, wanted = instruction.guard
            self._guard = self.read(register) if wanted else f"~{self.read(register)}"
        if not isinstance(form.code, str):
            form.code(self, instruction)
            return
        count = len(form.results)
        sources = zip(instruction.operands[count:], form.sources, strict=False)
        wide = [(o, s.rstrip("?")) for o, s in sources]
        values = [
            str(self.integer(o)) if s == "imm" else self.use(o, s.rstrip("+"), wide=s[-1] == "+")
            for o, s in wide
        ]
        code = form.code.format(*values, site=index)
        if count:
            self.define(instruction.operands[0], form.results[0], code)
        else:
            self.line(code)

    def source(self, name: str, control: list[str], outs: list[int]) -> str:
        """The whole function; it returns what ends the segment, then the registers `outs`."""
        arguments = "".join(f", r{n}" for n in self.live_in)
        returned = "".join(f"{v}, " for v in [*control, *(f"r{n}" for n in outs)])
        body = "".join(f"    {line}\n" for line in self.lines)
        return f"def {name}(A, X{arguments}):\n{body}    return ({returned})\n"

    # --------------------------------------------------------- for forms

    def line(self, text: str) -> None:
        self.lines.append(text)

    def temp(self, expression: str) -> str:
        """Keep a value in a local variable; returns its name."""
        self._temps += 1
        self.lines.append(f"t{self._temps} = {expression}")
        return f"t{self._temps}"

    def numpy(self, ptx_type: str) -> str:
        return NUMPY[ptx_type]

    def constant(self, value: int, ptx_type: str) -> str:
        """An integer literal as a NumPy scalar of the type."""
        bits = value & ((1 << 8 * TYPE_BYTES[ptx_type]) - 1)
        kind = NUMPY[ptx_type]
        name = f"k_{kind}_{bits}"
        unsigned = np.dtype(f"u{TYPE_BYTES[ptx_type]}").type
        self.constants[name] = unsigned(bits).view(kind)
        return name

    def integer(self, operand: Operand) -> int:
        assert isinstance(operand, Imm)
        return operand.value

    def read(self, register: Reg) -> str:
        if register.number not in self.defined:
            self.live_in.setdefault(register.number, register)
        return f"r{register.number}"

    def use(self, operand: Operand, ptx_type: str, *, wide: bool = False) -> str:
        """An expression of the operand's value, of the type's dtype."""
        kind = NUMPY[ptx_type]
        if isinstance(operand, Reg):
            return self._register(operand, kind, wide)
        if isinstance(operand, Imm):
            return self._immediate(operand, ptx_type)
        if isinstance(operand, Not):
            return f"(~{self.read(operand.reg)})"
        if isinstance(operand, Special):
            if operand.name == "WARP_SZ":
                return self.constant(32, ptx_type)
            name = operand.name[1:].replace(".", "_")
            return (
                f"A.special({name!r}).astype({kind})"
                if ptx_type != "u32"
                else f"A.special({name!r})"
            )
        if isinstance(operand, Symbol):
            return self.symbol(operand, ptx_type)
        raise TypeError(f"{operand} is no value")

    def symbol(self, symbol: Symbol, ptx_type: str) -> str:
        """The address of a variable in its own space, or a parameter's offset."""
        offset = self.kernel.offsets.get(symbol.name)
        if offset is None:
            for param in self.kernel.signature.params:
                if param.name == symbol.name:
                    offset = param.offset
        if offset is not None:
            return self.constant(offset + symbol.offset, ptx_type)
        base = f"X.globals[{symbol.name!r}]"
        return f"({base} + {self.constant(symbol.offset, ptx_type)})" if symbol.offset else base

    def address(self, operand: Operand, space: str) -> str:
        """Address in the space, unsigned."""
        assert isinstance(operand, Address)
        if operand.base is None:
            return self.constant(operand.offset, "u64")
        if isinstance(operand.base, Symbol):
            total = Symbol(operand.base.name, operand.base.offset + operand.offset)
            return self.symbol(total, "u64")
        kind = KEPT_AS[operand.base.type]
        base = self._register(operand.base, kind, False)
        if not operand.offset:
            return base
        return f"{base} + {self.constant(operand.offset, operand.base.type)}"

    def parameter(self, operand: Operand, ptx_type: str) -> str:
        """The value of a parameter named in the text; empty when the address is computed."""
        if not isinstance(operand, Address) or not isinstance(operand.base, Symbol):
            return ""
        for param in self.kernel.signature.params:
            if param.name == operand.base.name:
                offset = param.offset + operand.base.offset + operand.offset
                return f"X.parameters[{offset}, {NUMPY[ptx_type]}]"
        return ""

    def define(self, operand: Operand, ptx_type: str, expression: str) -> None:
        """Assign to a register a value of the type's dtype."""
        assert isinstance(operand, Reg)
        kept = KEPT_AS[operand.type]
        if NUMPY[ptx_type] != kept:
            expression = f"({expression}).view({kept})"
        name = f"r{operand.number}"
        if self._guard:
            old = self.read(operand)
            expression = f"np.where({self._guard}, {expression}, {old})"
        self.lines.append(f"{name} = {expression}")
        self.defined[operand.number] = operand
        self._views = {k: v for k, v in self._views.items() if k[0] != operand.number}

    def define_wide(self, operand: Operand, ptx_type: str, expression: str) -> None:
        """Assign to a register that may be wider than the type: extended by the type's sign."""
        assert isinstance(operand, Reg)
        if TYPE_BYTES[operand.type] == TYPE_BYTES[ptx_type]:
            self.define(operand, ptx_type, expression)
            return
        wide = ("s" if ptx_type[0] == "s" else "u") + str(8 * TYPE_BYTES[operand.type])
        self.define(operand, wide, f"({expression}).astype({NUMPY[wide]})")

    def _register(self, register: Reg, kind: str, wide: bool) -> str:
        name = self.read(register)
        kept = KEPT_AS[register.type]
        if kept == kind:
            return name
        key = (register.number, kind)
        if key not in self._views:
            unsigned = f"u{np.dtype(kind).itemsize}"
            if wide and np.dtype(kept).itemsize > np.dtype(kind).itemsize:
                integer = "" if kept[0] == "u" else f".view(u{np.dtype(kept).itemsize})"
                narrowed = f"{name}{integer}.astype({unsigned})"
                view = narrowed if kind == unsigned else f"{narrowed}.view({kind})"
            else:
                view = f"{name}.view({kind})"
            self._views[key] = self.temp(view)
        return self._views[key]

    def _immediate(self, operand: Imm, ptx_type: str) -> str:
        size = TYPE_BYTES[ptx_type]
        if ptx_type == "pred":
            name = f"k_b1_{int(operand.value != 0)}"
            self.constants[name] = np.bool_(operand.value != 0)
            return name
        value = operand.value
        if operand.float_bytes and operand.float_bytes != size:
            given = np.dtype(f"u{operand.float_bytes}").type(value).view(f"f{operand.float_bytes}")
            value = int(given.astype(f"f{size}").view(f"u{size}"))
        elif not operand.float_bytes and ptx_type in ("f32", "f64"):
            value = int(np.dtype(f"f{size}").type(value).view(f"u{size}"))
        return self.constant(value, ptx_type)
