"""Read what PTX text says about its entries, without a compiler and without a driver.

PTX tells count, size and alignment of each parameter, float or not, the thread limits and the
static shared memory. Sign, const and what a pointer points to come from the manifest.
Whatever is no PTX ends in PtxSyntaxError with a line number, and in nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from pyferrum_kv.errors import FerrumError
from pyferrum_kv.signature import Limits, Param, ParamKind, Signature

MAX_PARAM_BYTES = 32764  # the largest parameter block that any CUDA version accepts


class PtxSyntaxError(FerrumError, ValueError):
    """The text is not PTX as this package reads it. Attributes: `line` (from 1), `message`."""

    def __init__(self, line: int, message: str) -> None:
        self.line, self.message = line, message
        super().__init__(f"PTX line {line}: {message}")


@dataclass(frozen=True, slots=True)
class PtxInfo:
    """The header of a PTX text and the signatures of its entries, in order of appearance."""

    version: tuple[int, int]
    target: str
    address_size: int
    entries: dict[str, Signature]


def read_ptx(text: str) -> PtxInfo:
    """Read header and entries of PTX text; a trailing NUL is ignored."""
    code = _blank_comments(text.rstrip("\0"))
    version = _directive(code, r"\.version\s+(\d{1,3})\.(\d{1,3})(?!\d)", ".version major.minor")
    target = _directive(code, r"\.target\s+(\w{1,32})", ".target sm_NN")
    address_size = re.search(r"^\s*\.address_size\s+(32|64)\b", code, re.MULTILINE)
    module_shared = _module_shared(code)
    entries: dict[str, Signature] = {}
    position = 0
    while head := _ENTRY.search(code, position):
        signature, position, is_prototype = _read_entry(code, head, module_shared)
        if signature.entry in entries:
            raise PtxSyntaxError(
                _line(code, head.start()), f"entry {signature.entry} is defined twice"
            )
        if not is_prototype:
            entries[signature.entry] = signature
    return PtxInfo(
        version=(int(version[1]), int(version[2])),
        target=target[1],
        address_size=int(address_size[1]) if address_size else 32,
        entries=entries,
    )


# ------------------------------------------------------------------ text

_ENTRY = re.compile(r"\.entry\s+([A-Za-z_$%][\w$]*)")
_QUOTED_OR_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)


def _blank_comments(text: str) -> str:
    """Replace comments and strings by blanks; newlines stay, so positions keep their lines."""

    def blank(match: re.Match[str]) -> str:
        if match[0].startswith("/*") and (len(match[0]) < 4 or not match[0].endswith("*/")):
            raise PtxSyntaxError(_line(text, match.start()), "comment /* is never closed")
        return re.sub(r"[^\n]", " ", match[0])

    return _QUOTED_OR_COMMENT.sub(blank, text)


def _line(code: str, position: int) -> int:
    return code.count("\n", 0, position) + 1


def _directive(code: str, pattern: str, wanted: str) -> re.Match[str]:
    found = re.search(r"^\s*" + pattern, code, re.MULTILINE)
    if found is None:
        raise PtxSyntaxError(1, f"no {wanted} directive; is this PTX?")
    return found


# --------------------------------------------------------------- entries


def _read_entry(
    code: str, head: re.Match[str], module_shared: dict[str, tuple[int, int]]
) -> tuple[Signature, int, bool]:
    """Read one entry; returns it, the position behind it, and whether it is only a prototype."""
    name, position = head[1], head.end()
    opening = re.compile(r"\s*\(").match(code, position)
    params: tuple[Param, ...] = ()
    if opening:
        closing = code.find(")", opening.end())
        if closing < 0:
            raise PtxSyntaxError(_line(code, position), f"parameter list of {name} is never closed")
        params = _read_params(code, opening.end(), closing, name)
        position = closing + 1
    body = re.compile(r"[{;]").search(code, position)
    if body is None:
        raise PtxSyntaxError(_line(code, position), f"entry {name} has no body")
    is_prototype = body[0] == ";"
    end = body.end() if is_prototype else _closing_brace(code, body.start(), name)
    limits = _limits(code[position : body.start()], code[body.start() : end], module_shared)
    return Signature(name, params, limits), end, is_prototype


_BRACE = re.compile(r"[{}]")


def _closing_brace(code: str, opening: int, name: str) -> int:
    depth = 0
    for brace in _BRACE.finditer(code, opening):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    raise PtxSyntaxError(_line(code, opening), f"body of {name} is never closed")


# ------------------------------------------------------------ parameters

_SIZES = {
    **dict.fromkeys(("u8", "s8", "b8"), 1),
    **dict.fromkeys(("u16", "s16", "b16", "f16", "bf16"), 2),
    **dict.fromkeys(("u32", "s32", "b32", "f32", "f16x2", "bf16x2"), 4),
    **dict.fromkeys(("u64", "s64", "b64", "f64"), 8),
    "b128": 16,
}
_PARAM = re.compile(
    r"""\s*\.param
    (?:\s*\.align\s+(?P<before>\d{1,4}))?
    \s*\.(?P<type>\w+)
    (?P<ptr>\s*\.ptr(?:\s*\.(?:global|const|shared|local|generic))?(?:\s*\.align\s+\d{1,4})?)?
    \s+(?P<name>[A-Za-z_$%][\w$]*)
    (?:\s*\[\s*(?P<count>\d{1,9})\s*\])?\s*""",
    re.VERBOSE,
)


def _read_params(code: str, start: int, end: int, entry: str) -> tuple[Param, ...]:
    params: list[Param] = []
    offset = 0
    if not code[start:end].strip():
        return ()
    first = _line(code, start)
    for piece in code[start:end].split(","):
        line = first + piece[: len(piece) - len(piece.lstrip())].count("\n")
        first += piece.count("\n")
        found = _PARAM.fullmatch(piece)
        if found is None or found["type"] not in _SIZES:
            raise PtxSyntaxError(line, f"{entry}: {piece.strip()[:80]!r} is no parameter")
        size, align, kind = _shape(found, line)
        offset = -(-offset // align) * align
        params.append(Param(name=found["name"], kind=kind, size_bytes=size, offset=offset))
        offset += size
        if offset > MAX_PARAM_BYTES:
            raise PtxSyntaxError(
                line, f"{entry}: parameters take more than {MAX_PARAM_BYTES} bytes"
            )
    return tuple(params)


def _shape(param: re.Match[str], line: int) -> tuple[int, int, ParamKind]:
    """Return (size, alignment, kind) of one parameter declaration."""
    ptx_type = param["type"]
    size = _SIZES[ptx_type]
    align = int(param["before"] or size)
    if align not in (1, 2, 4, 8, 16, 32, 64, 128):
        raise PtxSyntaxError(line, f"alignment is {align}; wanted a power of two up to 128")
    if param["count"] is not None:
        return size * int(param["count"]), align, "struct"
    if param["ptr"]:
        return size, align, "pointer"
    return size, align, "float" if ptx_type.startswith(("f", "bf")) else "bits"


# ---------------------------------------------------------------- limits

_SHARED = re.compile(
    r"(?P<linkage>\.extern\s+|\.visible\s+|\.weak\s+|\.common\s+)?(?<!\w)\.shared"
    r"(?:\s*\.align\s+(?P<align>\d{1,4}))?(?:\s*\.v(?P<lanes>[24]))?\s*\.(?P<type>\w+)\s+"
    r"(?P<name>[A-Za-z_$%][\w$]*)(?P<dims>(?:\s*\[\s*\d{0,9}\s*\])*)"
)


def _shared_variables(code: str) -> dict[str, tuple[int, int]]:
    """Return name -> (bytes, alignment) of the .shared variables that are defined in `code`."""
    variables: dict[str, tuple[int, int]] = {}
    for found in _SHARED.finditer(code):
        is_extern = (found["linkage"] or "").startswith(".extern")
        if is_extern or found["type"] not in _SIZES:
            continue
        element = _SIZES[found["type"]] * int(found["lanes"] or 1)
        counts = [int(n) for n in re.findall(r"\d+", found["dims"])]
        align = max(1, int(found["align"] or element))
        variables[found["name"]] = (element * prod(counts), align)
    return variables


def _module_shared(code: str) -> dict[str, tuple[int, int]]:
    """The .shared variables at module scope: what lies outside every pair of braces."""
    outside: list[str] = []
    depth = last = 0
    for brace in _BRACE.finditer(code):
        if brace[0] == "{":
            if depth == 0:
                outside.append(code[last : brace.start()])
            depth += 1
        else:
            depth = max(0, depth - 1)
            if depth == 0:
                last = brace.end()
    if depth == 0:
        outside.append(code[last:])
    return _shared_variables("\n".join(outside))


def _limits(performance: str, body: str, module_shared: dict[str, tuple[int, int]]) -> Limits:
    used = {n: v for n, v in module_shared.items() if re.search(rf"\b{re.escape(n)}\b", body)}
    total = 0
    for num_bytes, align in (used | _shared_variables(body)).values():
        total = -(-total // align) * align + num_bytes
    most, required = _threads(performance, "maxntid"), _threads(performance, "reqntid")
    return Limits(
        max_threads=prod(most) if most else None,
        required_threads=required,
        static_shared_bytes=total,
    )


def _threads(performance: str, directive: str) -> tuple[int, int, int] | None:
    found = re.search(
        rf"\.{directive}\s+(\d{{1,6}})(?:\s*,\s*(\d{{1,6}}))?(?:\s*,\s*(\d{{1,6}}))?", performance
    )
    return (int(found[1]), int(found[2] or 1), int(found[3] or 1)) if found else None
