"""What a kernel's parameters are: the one description that bundle, driver and virtual device share.

The PTX text tells count, size and float-or-integer of each parameter; names, sign, const and
pointee come from the `.cu` declaration through the manifest. A field that is not known is empty,
never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ParamKind = Literal["pointer", "int", "uint", "float", "struct", "bits"]
"""`bits`: an integer or a pointer of unknown sign, all that PTX alone can tell."""


@dataclass(frozen=True, slots=True)
class Param:
    """One kernel parameter, at `offset` bytes of the parameter block."""

    name: str
    kind: ParamKind
    size_bytes: int
    offset: int
    ctype: str = ""  # as declared: "const f16*", "i32"; empty for foreign PTX
    pointee: str = ""  # "f16", "i8", ...; empty where unknown or no pointer
    is_const: bool = False  # a pointer to const: the kernel only reads through it
    shape: str = ""  # as the declaration's comment gives it: "[num_tokens, head_dim]"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a launcher must keep. None: no limit known."""

    max_threads: int | None = None  # of .maxntid
    required_threads: tuple[int, int, int] | None = None  # of .reqntid
    static_shared_bytes: int = 0
    max_dynamic_shared_bytes: int | None = None
    dims: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # name -> (min, max, step)


@dataclass(frozen=True, slots=True)
class Signature:
    """An entry's name, its parameters in order and its limits."""

    entry: str
    params: tuple[Param, ...]
    limits: Limits = Limits()

    @property
    def size_bytes(self) -> int:
        """Bytes of the parameter block."""
        return max((p.offset + p.size_bytes for p in self.params), default=0)

    def __str__(self) -> str:
        listed = ", ".join(f"{p.ctype or p.kind} {p.name}".strip() for p in self.params)
        return f"{self.entry}({listed})"
