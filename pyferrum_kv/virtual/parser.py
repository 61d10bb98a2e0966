"""PTX text -> Program: statements, scopes, registers, labels, source lines.

Strict: what is no PTX raises PtxSyntaxError with its line. What is PTX but not emulated is entered
in `Kernel.unsupported`, so that a module loads and only that kernel is refused.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from functools import lru_cache

from pyferrum_kv.ptx_reader import PtxSyntaxError, read_ptx
from pyferrum_kv.virtual.forms import OPCODES, NotEmulated, check_operands, find_form
from pyferrum_kv.virtual.labels import LabelScopes
from pyferrum_kv.virtual.operands import OperandReader
from pyferrum_kv.virtual.program import Instruction, Kernel, Program
from pyferrum_kv.virtual.variables import lay_out, read_variable

NAME = r"[A-Za-z_$%][\w$]*"
_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_SPACE = re.compile(r"\s+")
_STATEMENT = re.compile(
    rf"""\s*(?:
    (?P<loc>\.loc[ \t]+(?P<file>\d+)[ \t]+(?P<row>\d+)[^\n]*)
    |(?P<label>{NAME})\s*:(?!:)
    |(?P<brace>[{{}};])
    |(?P<directive>\.)
    |(?:@(?P<negated>!?)\s*(?P<guard>{NAME})\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<operands>[^;]*);
    |(?P<end>\Z))""",
    re.VERBOSE,
)
_REGISTERS = re.compile(r"\.reg\s*\.(?P<type>\w+)\s+(?P<names>[^;]*);")
_REGISTER = re.compile(rf"\s*({NAME})\s*(?:<\s*(\d+)\s*>)?\s*\Z")
_LOC = re.compile(r"\.loc\b[^\n;]*")
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"\n]*)"[^\n]*')
_SECTION = re.compile(r"\.section\s+[.\w]+\s*\{[^}]*\}")
_TARGETS = re.compile(r"\.branchtargets\s+([^;]*);")
_CALL_DIRECTIVE = re.compile(r"\.param\b[^;]*;|\.callprototype\b[^;]*;")
_HEADER = re.compile(r"\.(?:version|target|address_size)\b[^\n]*")
_IGNORED = re.compile(r"\.(?:pragma|noreturn)\b[^;]*;|\.(?:weak|alias)\s+[\w$%]+\s*(?:,[^;]*)?;")
_ENTRY = re.compile(rf"(?:\.(?:visible|weak|extern)\s+)?\.entry\s+({NAME})")
_FUNCTION = re.compile(
    rf"(?:\.(?:visible|weak|extern)\s+)*\.func\s+(?:\([^)]*\)\s*)?({NAME})[^;{{]*"
)
_VARIABLE = re.compile(
    r"(?:\.(?:visible|weak|extern|common)\s+)?\.(?:global|const|shared|local)\b[^;]*;"
)
_REG_TYPES = {
    "pred": "pred",
    **{t: t for b in ("16", "32", "64") for t in (f"b{b}", f"u{b}", f"s{b}", f"f{b}")},
    **{t: t for t in ("f16x2", "bf16", "bf16x2", "tf32", "b8", "u8", "s8", "b128")},
}


@lru_cache(maxsize=256)
def parse_ptx(text: str) -> Program:
    """Parse one PTX text; the same text gives the same Program object."""
    text = text.rstrip("\0 \t\r\n")
    info = read_ptx(text)
    program = Program(info.version, info.target, hashlib.sha256(text.encode()).hexdigest())
    _Parser(text, program, {k: Kernel(k, s, program) for k, s in info.entries.items()}).module()
    return program


class _Parser:
    """One pass over the text; `self.at` is the position."""

    def __init__(self, text: str, program: Program, kernels: dict[str, Kernel]) -> None:
        self.code = _COMMENT.sub(_blank_comment, text)
        self.starts = [0, *(m.end() for m in re.finditer("\n", self.code))]
        self.program, self.kernels, self.at = program, kernels, 0

    def line(self, at: int | None = None) -> int:
        return bisect_right(self.starts, self.at if at is None else at)

    def fail(self, message: str, at: int | None = None) -> PtxSyntaxError:
        return PtxSyntaxError(self.line(at), message)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.code, self.at)
        if found:
            self.at = found.end()
        return found

    def rest(self) -> str:
        return self.code[self.at : self.at + 60].split("\n")[0]

    # ----------------------------------------------------------- module

    def module(self) -> None:
        bodies: list[tuple[Kernel, int]] = []
        while self.take(_SPACE) or self.at < len(self.code):
            if found := self.take(_FILE):
                self.program.files[int(found[1])] = found[2]
            elif (
                self.take(_HEADER) or self.take(_SECTION) or self.take(_IGNORED) or self.take(_LOC)
            ):
                continue
            elif found := self.take(_ENTRY):
                self.skip_to_body()
                if self.code[self.at] == "{":
                    bodies.append((self.kernels[found[1]], self.at))
                    self.skip_braces()
                else:
                    self.at += 1
            elif found := self.take(_FUNCTION):
                self.program.functions.add(found[1])
                self.take(_SPACE)
                if self.code[self.at : self.at + 1] == "{":
                    self.skip_braces()
                else:
                    self.at += 1
            elif found := self.take(_VARIABLE):
                variable = read_variable(found[0], self.line(found.start()))
                table = self.program.shared if variable.space == "shared" else self.program.globals
                if variable.space == "local":
                    raise self.fail(".local belongs inside an entry", found.start())
                table[variable.name] = variable
            elif self.at < len(self.code):
                raise self.fail(f"{self.rest()!r} is no PTX directive")
        for kernel, at in bodies:
            self.at = at
            _Body(self, kernel).read()
            self.program.kernels[kernel.name] = kernel

    def skip_to_body(self) -> None:
        found = re.compile(r"\s*\([^)]*\)").match(self.code, self.at)
        self.at = found.end() if found else self.at
        found = re.compile(r"[{;]").search(self.code, self.at)
        if found is None:
            raise self.fail("entry has no body")
        self.at = found.start()

    def skip_braces(self) -> None:
        depth, opening = 0, self.at
        for brace in re.compile(r"[{}]").finditer(self.code, self.at):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                self.at = brace.end()
                return
        raise self.fail("this brace is never closed", opening)


class _Body:
    """The statements of one entry."""

    def __init__(self, parser: _Parser, kernel: Kernel) -> None:
        self.parser, self.kernel = parser, kernel
        self.reader, self.labels = OperandReader(kernel), LabelScopes(kernel)
        self.loc = (0, 0)
        self.call_params: set[str] = set()
        self.last_label = ""

    def read(self) -> None:
        p, depth = self.parser, 0
        while True:
            found = _STATEMENT.match(p.code, p.at)
            if found is None:
                p.take(_SPACE)
                raise p.fail(f"{p.rest()!r} is no PTX instruction")
            p.at = found.end()
            what = found.lastgroup
            if what == "operands":
                self.instruction(found)
            elif what == "loc":
                self.loc = (int(found["file"]), int(found["row"]))
            elif what == "label":
                at = p.line(found.start("label"))
                self.last_label = self.labels.label(found["label"], at)
            elif what == "directive":
                p.at -= 1
                self.directive()
            elif what == "end":
                raise p.fail(f"body of {self.kernel.name} is never closed")
            elif found["brace"] == "{":
                depth += 1
                self.reader.open_scope()
                self.labels.open()
            elif found["brace"] == "}":
                depth -= 1
                self.reader.close_scope()
                self.labels.close()
                if depth == 0:
                    break
        self.kernel.registers = self.reader.registers
        lay_out(self.kernel)
        self.check_names()

    def directive(self) -> None:
        p = self.parser
        if found := p.take(_REGISTERS):
            self.declare(found)
        elif found := p.take(_VARIABLE):
            variable = read_variable(found[0], p.line(found.start()))
            self.kernel.variables[variable.name] = variable
        elif found := p.take(_TARGETS):
            names = [name.strip() for name in found[1].split(",")]
            self.labels.targets(self.last_label, names, p.line(found.start()))
        elif found := p.take(_CALL_DIRECTIVE):
            # of a call, which is refused by its own line
            self.call_params.update(re.findall(NAME + r"(?=\s*[;\[])", found[0]))
        elif not p.take(_IGNORED):
            raise p.fail(f"{p.rest()!r} is no PTX directive of a body")

    def declare(self, found: re.Match[str]) -> None:
        line = self.parser.line(found.start())
        if found["type"] not in _REG_TYPES:
            raise PtxSyntaxError(line, f".{found['type']} is no register type")
        for name in found["names"].split(","):
            declared = _REGISTER.match(name)
            if declared is None:
                raise PtxSyntaxError(line, f"{name.strip()!r} is no register name")
            count = None if declared[2] is None else int(declared[2])
            self.reader.declare(declared[1], count, found["type"])

    def instruction(self, found: re.Match[str]) -> None:
        line = self.parser.line(found.start("opcode"))
        opcode, text = found["opcode"], found[0].strip()[:-1]
        if "\n" in text or "\t" in text or "  " in text:
            text = " ".join(text.split())
        if opcode.startswith("call"):
            self.kernel.unsupported.append((line, text))
            return
        guard = None
        if found["guard"]:
            register = self.reader.register(found["guard"], line)
            if register.type != "pred":
                raise PtxSyntaxError(line, f"@{register.name} is .{register.type}; wanted .pred")
            guard = (register, not found["negated"])
        try:
            form = find_form(opcode)
        except NotEmulated as refusal:
            if opcode.partition(".")[0] not in OPCODES:
                raise PtxSyntaxError(line, f"{opcode.partition('.')[0]} is no PTX opcode") from None
            self.kernel.unsupported.append((line, f"{text}: {refusal}"))
            return
        try:
            operands = self.reader.read(found["operands"], line)
        except NotEmulated as refusal:
            self.kernel.unsupported.append((line, f"{text}: {refusal}"))
            return
        instruction = Instruction(line, opcode, operands, guard, self.loc, text)
        check_operands(instruction, form)
        self.labels.branch(instruction)
        self.kernel.instructions.append(instruction)

    def check_names(self) -> None:
        """Every name that is neither register, variable nor parameter must be a label."""
        kernel = self.kernel
        for line, name in self.reader.names:
            known = (
                name in kernel.labels
                or name in kernel.variables
                or name in kernel.program.globals
                or name in kernel.program.shared
                or name in kernel.branch_lists
                or name in self.call_params
                or any(param.name == name for param in kernel.signature.params)
            )
            if not known and not any(at == line for at, _ in kernel.unsupported):
                raise PtxSyntaxError(line, f"{name} is not declared")


def _blank_comment(match: re.Match[str]) -> str:
    if match[0].startswith('"'):
        return match[0]
    return re.sub(r"[^\n]", " ", match[0])
