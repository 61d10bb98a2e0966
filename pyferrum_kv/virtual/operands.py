"""Operand text -> operands, with the registers of the scopes around it."""

from __future__ import annotations

import re

from pyferrum_kv.ptx_reader import PtxSyntaxError
from pyferrum_kv.virtual.form import NotEmulated
from pyferrum_kv.virtual.program import (
    Address,
    Imm,
    Kernel,
    Not,
    Operand,
    Pair,
    Reg,
    Sink,
    Special,
    Symbol,
    Vector,
)

_PIECE = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,{}\[\]]+")
_NAME = re.compile(r"[A-Za-z_$%][\w$]*(?:\.[xyzw])?\Z")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:0[fF](?P<f32>[0-9a-fA-F]{8})|0[dD](?P<f64>[0-9a-fA-F]{16})"
    r"|0[xX](?P<hex>[0-9a-fA-F]+)U?|0[bB](?P<bin>[01]+)U?|(?P<int>\d+)U?)\Z"
)
_OFFSET = re.compile(r"(?P<base>[^+\-\s]+)\s*(?:(?P<sign>[+-])\s*(?P<offset>-?\s*\w+))?\s*\Z")
SPECIALS = frozenset(
    [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    + [f"%lanemask_{which}" for which in ("eq", "le", "lt", "ge", "gt")]
    + ["%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%gridid", "%clock", "%clock64"]
    + ["%clock_hi", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi"]
    + ["%dynamic_smem_size", "%total_smem_size", "WARP_SZ"]
)
NOT_EMULATED = frozenset(
    [f"%{name}.{axis}" for name in ("clusterid", "nclusterid") for axis in "xyz"]
    + [f"%{name}.{axis}" for name in ("cluster_ctaid", "cluster_nctaid") for axis in "xyz"]
    + ["%is_explicit_cluster", "%cluster_ctarank", "%cluster_nctarank", "%aggr_smem_size"]
    + [f"%envreg{i}" for i in range(32)]
    + [f"%pm{i}{width}" for i in range(8) for width in ("", "_64")]
    + [f"%reserved_smem_offset_{which}" for which in ("begin", "end", "cap", "0", "1")]
    + ["%current_graph_exec"]
)
"""Special registers that PTX has and the virtual device has not."""


class OperandReader:
    """Reads operands of one kernel; keeps its registers and scopes."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.registers: list[Reg] = []
        self.names: list[tuple[int, str]] = []  # (line, name) that must turn out to be declared
        self._scopes: list[dict[str, Reg]] = []
        self._families: list[dict[str, tuple[int, str]]] = []  # prefix -> (count, type)
        self._read: dict[str, tuple[Operand, ...]] = {}
        self._known: dict[str, Reg] = {}  # by name, as seen from the innermost scope

    def open_scope(self) -> None:
        self._scopes.append({})
        self._families.append({})

    def close_scope(self) -> None:
        names, families = self._scopes.pop(), self._families.pop()
        if names or families:
            self._forget()

    def declare(self, name: str, count: int | None, register_type: str) -> None:
        self._forget()
        if count is None:
            self._scopes[-1][name] = self._new(name, register_type)
        else:
            self._families[-1][name] = (count, register_type)

    def _forget(self) -> None:
        """A name may mean another register from here on."""
        self._read.clear()
        self._known.clear()

    def register(self, name: str, line: int) -> Reg:
        found = self._find(name)
        if found is None:
            raise PtxSyntaxError(line, f"register {name} is not declared")
        return found

    def _new(self, name: str, register_type: str) -> Reg:
        register = Reg(len(self.registers), name, register_type)
        self.registers.append(register)
        return register

    def _find(self, name: str) -> Reg | None:
        known = self._known.get(name)
        if known is None:
            known = self._search(name)
            if known is not None:
                self._known[name] = known
        return known

    def _search(self, name: str) -> Reg | None:
        for scope, families in zip(reversed(self._scopes), reversed(self._families), strict=False):
            if name in scope:
                return scope[name]
            prefix = name.rstrip("0123456789")
            number = name[len(prefix) :]
            if prefix in families and number and int(number) < families[prefix][0]:
                scope[name] = self._new(name, families[prefix][1])
                return scope[name]
        return None

    # ---------------------------------------------------------- operands

    def read(self, text: str, line: int) -> tuple[Operand, ...]:
        """The operands of one instruction."""
        known = self._read.get(text)
        if known is None:
            mark = len(self.names)
            if "{" in text or "[" in text or "(" in text:
                pieces = _PIECE.findall(text)
            else:
                pieces = text.split(",")
            known = tuple([self._operand(p, line) for piece in pieces if (p := piece.strip())])
            if len(self.names) == mark:
                self._read[text] = known
        return known

    def _operand(self, text: str, line: int) -> Operand:
        if known := self._known.get(text):
            return known
        if text[0] == "{":
            return Vector(tuple(self._operand(t.strip(), line) for t in text[1:-1].split(",")))
        if text[0] == "[":
            return self._address(text[1:-1].strip(), line)
        if text == "_":
            return Sink()
        if text[0] == "!":
            return Not(self.register(text[1:].strip(), line))
        if "|" in text:
            first, second = (self._operand(t.strip(), line) for t in text.split("|"))
            return Pair(first, second)
        if number := _NUMBER.match(text):
            return _immediate(number)
        if _NAME.match(text):
            return self._named(text, line)
        found = _OFFSET.match(text)
        if found and found["sign"] and _NAME.match(found["base"]):
            return Symbol(self._symbol(found["base"], line), self._offset(found, line))
        raise PtxSyntaxError(line, f"{text!r} is no operand")

    def _named(self, text: str, line: int) -> Reg | Special | Symbol:
        if text in SPECIALS:
            return Special(text)
        if text in NOT_EMULATED:
            raise NotEmulated(f"{text} is not emulated")
        found = self._find(text)
        if found is None and text[0] == "%":
            raise PtxSyntaxError(line, f"register {text} is not declared")
        return found or Symbol(self._symbol(text, line))

    def _symbol(self, name: str, line: int) -> str:
        self.names.append((line, name))
        return name

    def _address(self, text: str, line: int) -> Address:
        found = _OFFSET.match(text)
        if found is None:
            raise PtxSyntaxError(line, f"[{text}] is no address")
        if number := _NUMBER.match(found["base"]):
            return Address(None, _immediate(number).value)
        base = self._named(found["base"], line)
        if isinstance(base, Special):
            raise PtxSyntaxError(line, f"[{text}] is no address")
        return Address(base, self._offset(found, line))

    def _offset(self, found: re.Match[str], line: int) -> int:
        if found["offset"] is None:
            return 0
        number = _NUMBER.match(found["offset"].replace(" ", ""))
        if number is None:
            raise PtxSyntaxError(line, f"{found['offset']!r} is no offset")
        value = _immediate(number).value
        return -value if found["sign"] == "-" else value


def _immediate(number: re.Match[str]) -> Imm:
    sign = -1 if number["sign"] == "-" else 1
    if number["f32"]:
        return Imm(int(number["f32"], 16), 4)
    if number["f64"]:
        return Imm(int(number["f64"], 16), 8)
    if number["hex"]:
        return Imm(sign * int(number["hex"], 16))
    if number["bin"]:
        return Imm(sign * int(number["bin"], 2))
    text = number["int"]
    is_octal = len(text) > 1 and text[0] == "0" and not set(text) & set("89")
    return Imm(sign * int(text, 8 if is_octal else 10))
