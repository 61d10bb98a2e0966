"""What an opcode form is, and the table that all forms are entered in.

A form is an opcode with its modifiers ("setp.lt.s32"). It names the types of its results and its
sources, and how to say it in Python. Modifiers are consumed one by one: a form with a modifier left
over is not emulated, never emulated without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyferrum_kv.virtual.codegen import Emitter
    from pyferrum_kv.virtual.program import Instruction

Kind = Literal[
    "pure",  # registers in, registers out: may run under a guard by blending
    "effect",  # touches memory or the warp's bookkeeping: a guard becomes a branch
    "warp",  # needs the lanes of its member mask together
    "barrier",  # waits for other warps: ends a segment
    "branch",
    "exit",
]
Code = str | Callable[["Emitter", "Instruction"], None]


@dataclass(frozen=True, slots=True)
class Form:
    """One opcode form.

    results, sources    operand types in order of the text. "u32": a value; "u32+": the register may
                        be wider; "v4:u32": a vector; "global": an address; "pair:b32", "label",
                        "imm"; a trailing "?" marks what may be absent
    code                an expression over {0}, {1}, ... (the sources), or what writes statements
    """

    results: tuple[str, ...]
    sources: tuple[str, ...]
    code: Code
    kind: Kind = "pure"


class NotEmulated(Exception):
    """The form is valid, or may be, and the virtual device does not have it."""


class Modifiers:
    """The dot-separated rest of an opcode, consumed from both ends."""

    def __init__(self, opcode: str) -> None:
        self.opcode = opcode
        self.base, *self._rest = opcode.split(".")
        # "L1::no_allocate" and "shared::cta" hold no dots; "to" of cvta stays a word of its own

    def type(self, *allowed: str) -> str:
        """The last modifier, which must be one of the types."""
        return self._pop(-1, allowed)

    def next(self, *allowed: str) -> str:
        """The next modifier, which must be one of these."""
        return self._pop(0, allowed)

    def maybe(self, *allowed: str) -> str:
        """The next modifier if it is one of these, else an empty string."""
        return self._rest.pop(0) if self._rest and self._rest[0] in allowed else ""

    def skip(self, *ignorable: str) -> None:
        """Drop the next modifiers while they are hints that change no result."""
        while self._rest and self._rest[0] in ignorable:
            self._rest.pop(0)

    def done(self) -> None:
        if self._rest:
            raise NotEmulated(f".{self._rest[0]} is not emulated")

    def _pop(self, position: int, allowed: tuple[str, ...]) -> str:
        if not self._rest or (allowed and self._rest[position] not in allowed):
            found = f".{self._rest[position]}" if self._rest else "no modifier"
            raise NotEmulated(f"{self.base} with {found} is not emulated")
        return self._rest.pop(position)


Maker = Callable[[Modifiers], Form]
TABLE: dict[str, Maker] = {}


def opcode(*names: str) -> Callable[[Maker], Maker]:
    """Enter the maker of a base opcode's forms in the table."""

    def enter(maker: Maker) -> Maker:
        TABLE.update(dict.fromkeys(names, maker))
        return maker

    return enter


@lru_cache(maxsize=4096)
def find_form(opcode_text: str) -> Form:
    """The form of an opcode; NotEmulated with the reason when there is none."""
    modifiers = Modifiers(opcode_text)
    maker = TABLE.get(modifiers.base)
    if maker is None:
        raise NotEmulated("not emulated by the virtual device")
    form = maker(modifiers)
    modifiers.done()
    return form
