"""A small C preprocessor: enough to read declarations that macros make, and nothing more.

Object-like and function-like macros, `##`, `#undef` and quoted includes. Conditional directives are
passed over, so all branches are read: an entry may exist for one target only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyferrum_kv.errors import BuildError

Tokens = list[str]

_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[A-Za-z_$][\w$]*|\.?\d[\w.]*|\#\#|\S""",
    re.DOTALL,
)
_SPANNING_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"#\s*define\s+([A-Za-z_]\w*)(\(([^)]*)\))?(.*)", re.DOTALL)
INCLUDE = re.compile(r'#\s*include\s*"([^"]+)"')
_DEPTH = 64  # macros within macros; deeper is a mistake


def tokenize(text: str) -> Tokens:
    """Split C++ text; comments stay, as tokens of their own."""
    return _TOKEN.findall(text)


def is_comment(token: str) -> bool:
    return token.startswith(("//", "/*"))


def code_of(tokens: Sequence[str]) -> Tokens:
    """Return the tokens without comments."""
    return [token for token in tokens if not is_comment(token)]


def logical_lines(text: str) -> Iterator[str]:
    """Yield lines with continuations joined; comments over several lines are left out."""

    def unless_spanning(comment: re.Match[str]) -> str:
        spans = comment[0].startswith("/*") and "\n" in comment[0]
        return "" if spans else comment[0]

    joined = re.sub(r"\\\r?\n", " ", text)
    yield from (line.strip() for line in _SPANNING_COMMENT.sub(unless_spanning, joined).split("\n"))


def includes(text: str) -> Iterator[str]:
    """Yield what the text includes by quoted name."""
    for line in logical_lines(text):
        if found := INCLUDE.match(line):
            yield found[1]


def matching(tokens: Sequence[str], opening: int) -> int | None:
    """Return where the `(` at `opening` is closed; None: not in these tokens."""
    depth = 0
    for position in range(opening, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[position], 0)
        if depth == 0:
            return position
    return None


def split_arguments(tokens: Sequence[str]) -> list[Tokens]:
    """Split at commas that lie in no bracket."""
    pieces: list[Tokens] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, "[": 1, "{": 1, "<": 1}.get(token, 0)
        depth -= {")": 1, "]": 1, "}": 1, ">": 1}.get(token, 0)
        if token == "," and depth == 0:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


@dataclass(frozen=True, slots=True)
class Macro:
    params: tuple[str, ...] | None  # None: object-like
    body: tuple[str, ...]


class Macros:
    """The macros defined so far."""

    def __init__(self) -> None:
        self._macros: dict[str, Macro] = {}

    def define(self, line: str) -> str | None:
        """Take a `#define` or `#undef` line; returns the name that it defines."""
        if undef := re.match(r"#\s*undef\s+(\w+)", line):
            self._macros.pop(undef[1], None)
        found = _DEFINE.match(line)
        if found is None:
            return None
        params = tuple(p.strip() for p in found[3].split(",")) if found[2] else None
        self._macros[found[1]] = Macro(params, tuple(tokenize(found[4])))
        return found[1]

    def makes_entries(self, name: str, depth: int = 0) -> bool:
        """Whether an invocation of this function-like macro declares kernels."""
        macro = self._macros.get(name)
        if macro is None or depth > _DEPTH:
            return False
        return any(t == "__global__" or self.makes_entries(t, depth + 1) for t in macro.body)

    def expand(self, tokens: Sequence[str], hidden: frozenset[str] = frozenset()) -> Tokens:
        """Replace every macro, to the end."""
        result: Tokens = []
        position = 0
        while position < len(tokens):
            name = tokens[position]
            macro = None if name in hidden else self._macros.get(name)
            position += 1
            if macro is None:
                result.append(name)
                continue
            arguments: list[Tokens] = []
            if macro.params is not None:
                if tokens[position : position + 1] != ["("]:
                    result.append(name)
                    continue
                closing = matching(tokens, position)
                if closing is None:
                    return [*result, name, *tokens[position:]]  # goes on in the next line
                arguments = split_arguments(code_of(tokens[position + 1 : closing]))
                position = closing + 1
            if len(hidden) >= _DEPTH:
                raise BuildError(f"macro {name}: nested more than {_DEPTH} deep")
            result += self.expand(_substituted(name, macro, arguments), hidden | {name})
        return result


def _substituted(name: str, macro: Macro, arguments: list[Tokens]) -> Tokens:
    params = macro.params or ()
    if params and len(params) != len(arguments):
        raise BuildError(f"macro {name} takes {len(params)} arguments, got {len(arguments)}")
    by_name = dict(zip(params, arguments, strict=False))
    result: Tokens = []
    paste = False
    for token in macro.body:
        if token == "##":
            paste = True
            continue
        replaced = by_name.get(token, [token])
        if paste and result and replaced:
            replaced = [result.pop() + replaced[0], *replaced[1:]]
        paste = False
        result += replaced
    return result
