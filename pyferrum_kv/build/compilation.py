"""One source compiled for one target, to bytes that every build gives again.

NVRTC 12.0.76 does not always write the same text. Measured on a kernel of 13,000 lines of PTX: in 7
of 144 compilations it read one element of a vector a second time, at one of several places, and was
otherwise equal. So a text counts when it is the one already in the bundle, or when it came twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from pyferrum_kv.errors import BuildError
from pyferrum_kv.nvrtc import CompiledPtx, CompileOptions, compile_ptx

ATTEMPTS = 8

# ptxas 12.0.76 crashes on it for sm_90. A line keeps its file and row; who inlined it is lost.
_INLINED_AT = re.compile(rb", function_name \S+, inlined_at [^\n]*")
# Columns are shown by nobody, and half of the lines then say what the one before said.
_COLUMN = re.compile(rb"^(\t\.loc\t\d+ \d+) \d+$", re.MULTILINE)
_LINE = re.compile(rb"^\t\.loc\t\d+ \d+ 0\n", re.MULTILINE)
# A comment that counts the calls compiled since the process began.
_CALL_COUNT = re.compile(rb"(// callseq) [\d, ]+")


def compiled_alike(
    source: str,
    name: str,
    options: CompileOptions,
    headers: Mapping[str, str],
    known: bytes | None = None,
) -> CompiledPtx:
    """Compile until the text is `known` or came twice; known: what the bundle on disk holds."""
    seen = {known}
    for _ in range(ATTEMPTS):
        compiled = compile_ptx(source, name, options, headers=headers)
        text = _CALL_COUNT.sub(rb"\1", _INLINED_AT.sub(b"", compiled.ptx))
        text = _without_repeats(_COLUMN.sub(rb"\1 0", text))
        compiled = replace(compiled, ptx=text)
        if compiled.ptx in seen:
            return compiled
        seen.add(compiled.ptx)
    raise BuildError(f"{name}: NVRTC gave {ATTEMPTS} different texts of {ATTEMPTS}")


def _without_repeats(ptx: bytes) -> bytes:
    """Line information without what repeats the line before it."""
    last = b""

    def kept(line: re.Match[bytes]) -> bytes:
        nonlocal last
        repeats, last = line[0] == last, line[0]
        return b"" if repeats else line[0]

    return _LINE.sub(kept, ptx)
