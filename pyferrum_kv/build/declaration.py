"""Read `extern "C" __global__` declarations from a .cu file: names, C types, shapes and limits.

The text that the compiler reads is the one source. Declarations may be plain, or made by a macro
that one line an entry invokes; docs/manifest.md shows both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pyferrum_kv.build.macros import (
    INCLUDE,
    Macros,
    Tokens,
    code_of,
    is_comment,
    logical_lines,
    matching,
    split_arguments,
    tokenize,
)
from pyferrum_kv.errors import BuildError
from pyferrum_kv.signature import Limits


@dataclass(frozen=True, slots=True)
class DeclaredParam:
    """One parameter as the source declares it."""

    name: str
    base: str  # the type without const and stars: "f16", "unsigned char", "Params"
    stars: int
    is_const: bool  # a pointer to const
    shape: str

    @property
    def ctype(self) -> str:
        return f"{'const ' if self.is_const else ''}{self.base}{'*' * self.stars}"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One entry as the source declares it, with typedefs not yet resolved."""

    entry: str
    params: tuple[DeclaredParam, ...]
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Declarations:
    """What a source and its headers declare."""

    entries: dict[str, Declaration] = field(default_factory=dict)
    typedefs: dict[str, str] = field(default_factory=dict)


def read_declarations(source: str, headers: Mapping[str, str]) -> Declarations:
    """Read a source and the headers that it includes."""
    reader = _Reader(headers)
    reader.read(source)
    reader.finish()
    return reader.found


_TYPEDEF = re.compile(r"typedef\s+([\w\s]+?)\s+(\w+)\s*;|using\s+(\w+)\s*=\s*([\w\s]+?)\s*;")
_LIMITS = re.compile(r"//\s*LIMITS\b(.*)")


class _Reader:
    """Walks logical lines; `open` holds a declaration that has begun and not ended."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.found = Declarations()
        self._headers = headers
        self._read: set[str] = set()
        self._macros = Macros()
        self._macro_limits: dict[str, Limits] = {}
        self._limits: Limits | None = None
        self._limits_used = False
        self._open: Tokens = []

    def read(self, text: str) -> None:
        for line in logical_lines(text):
            if include := INCLUDE.match(line):
                self._include(include[1])
            elif line.startswith("#"):
                defined = self._macros.define(line)
                if defined and self._limits is not None:
                    self._macro_limits[defined] = self._limits
                    self._limits_used = True
            elif found := _LIMITS.match(line):
                self.finish()
                self._limits, self._limits_used = read_limits(found[1]), False
            elif line:
                self._code(line)

    def finish(self) -> None:
        """End the reach of a LIMITS comment; one that covers nothing is a mistake."""
        if self._limits is not None and not self._limits_used:
            raise BuildError(
                "a LIMITS comment covers no entry; put it right above a declaration, "
                "an invocation or the #define of a family"
            )
        self._limits = None

    def _include(self, name: str) -> None:
        if name in self._headers and name not in self._read:
            self._read.add(name)
            self.read(self._headers[name])

    def _code(self, line: str) -> None:
        if typedef := _TYPEDEF.match(line):
            self.found.typedefs[typedef[2] or typedef[3]] = " ".join(
                (typedef[1] or typedef[4]).split()
            )
        tokens = tokenize(line)
        code = code_of(tokens)
        if not self._open:
            if not code:
                return
            if not ("__global__" in code or self._macros.makes_entries(code[0])):
                self.finish()
                return
        invoked = "" if self._open or "__global__" in code else code[0]
        self._open += tokens
        declared = _parse(self._macros.expand(self._open))
        if declared is None:
            return
        self._open = []
        for declaration in declared:
            self._add(declaration, invoked)
        if not invoked:
            self._limits = None

    def _add(self, declaration: Declaration, invoked: str) -> None:
        limits = self._limits or self._macro_limits.get(invoked)
        self._limits_used = True
        if limits is not None:
            declaration = replace(declaration, limits=limits)
        known = self.found.entries.setdefault(declaration.entry, declaration)
        if known != declaration:
            raise BuildError(f"{declaration.entry}: declared twice, and not the same way")


# ---------------------------------------------------------- declarations


def _parse(tokens: Tokens) -> list[Declaration] | None:
    """Read every kernel in these tokens; None: the last one goes on in the next line."""
    declared: list[Declaration] = []
    position = 0
    while "__global__" in tokens[position:]:
        position = tokens.index("__global__", position) + 1
        head = code_of(tokens[max(0, position - 6) : position])
        while position < len(tokens) and tokens[position] != "(":
            position += 1
            if tokens[position - 1] == "__launch_bounds__":
                closing = matching(tokens, position)
                if closing is None:
                    return None
                position = closing + 1
        closing = matching(tokens, position) if position < len(tokens) else None
        if closing is None:
            return None
        if 'extern"C"' in "".join(head):
            name = code_of(tokens[:position])[-1]
            declared.append(Declaration(name, _params(name, tokens[position + 1 : closing])))
        position = closing
    return declared or (None if "__global__" not in tokens else declared)


def _params(entry: str, tokens: Sequence[str]) -> tuple[DeclaredParam, ...]:
    """Read a parameter list; a comment behind a comma belongs to the parameter before it."""
    params: list[DeclaredParam] = []
    if code_of(tokens) in ([], ["void"]):
        return ()
    for piece in split_arguments(tokens):
        code = code_of(piece)
        leading = next((i for i, token in enumerate(piece) if not is_comment(token)), len(piece))
        if params and (shape := _shape(piece[:leading])):
            params[-1] = replace(params[-1], shape=shape)
        params.append(replace(_param(entry, code), shape=_shape(piece[leading:])))
    return tuple(params)


_QUALIFIERS = {"__restrict__", "__restrict", "restrict", "__grid_constant__", "volatile", "struct"}


def _param(entry: str, code: Tokens) -> DeclaredParam:
    kept = [token for token in code if token not in _QUALIFIERS]
    shown = " ".join(code)
    if len(kept) < 2 or not re.fullmatch(r"[A-Za-z_]\w*", kept[-1]):
        raise BuildError(f"{entry}: parameter {shown!r}; wanted a type and a name, nothing else")
    name, before = kept[-1], kept[:-1]
    if any(token in "&[]()" for token in before):
        raise BuildError(f"{entry}: parameter {shown!r}; wanted a value or a pointer")
    first_star = before.index("*") if "*" in before else len(before)
    base = [token for token in before[:first_star] if token != "const"]
    is_const = first_star < len(before) and "const" in before[:first_star]
    return DeclaredParam(name, _joined(base), before.count("*"), is_const, "")


def _joined(words: Sequence[str]) -> str:
    return re.sub(r"\s*(::|[<>,])\s*", r"\1", " ".join(words).replace(": :", "::"))


def _shape(tokens: Sequence[str]) -> str:
    """Return the bracketed list at the start of a comment: "[num_tokens, head_dim]"."""
    for token in tokens:
        if is_comment(token) and (found := re.match(r"/[/*]\s*(\[[^\]]*\])", token)):
            return found[1]
    return ""


# ---------------------------------------------------------------- limits

_ITEM = re.compile(r"(\w+)\s+(\d+)(?:x(\d+)x(\d+)|\s*\.\.\s*(\d+)(?:\s+step\s+(\d+))?)?")


def read_limits(text: str) -> Limits:
    """Read `head_dim 8..256 step 8; block_dim 128; dynamic_shared_bytes 0..4096`."""
    limits = Limits()
    dims: dict[str, tuple[int, int, int]] = {}
    for item in filter(None, (piece.strip() for piece in text.split(";"))):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise BuildError(
                f"LIMITS: {item!r}; wanted name value, name min..max or name min..max step n"
            )
        name, low, y, z, high, step = found.groups()
        first, last = int(low), int(high or low)
        if last < first or (step is not None and int(step) < 1):
            raise BuildError(f"LIMITS: {item!r} is an empty range")
        if name == "block_dim" and high is None:
            limits = replace(limits, required_threads=(first, int(y or 1), int(z or 1)))
        elif name == "dynamic_shared_bytes":
            limits = replace(limits, max_dynamic_shared_bytes=last)
        else:
            dims[name] = (first, last, int(step or 1))
    return replace(limits, dims=dims)
