"""What PTX text says, as data: a program, its variables, its kernels and their instructions."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyferrum_kv.signature import Signature

TYPE_BYTES = {
    "pred": 1,
    **dict.fromkeys(("b8", "u8", "s8"), 1),
    **dict.fromkeys(("b16", "u16", "s16", "f16", "bf16"), 2),
    **dict.fromkeys(("b32", "u32", "s32", "f32", "f16x2", "bf16x2", "tf32"), 4),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), 8),
    "b128": 16,
}


@dataclass(slots=True)
class Reg:
    """A register of the kernel, by its number; `type` as declared."""

    number: int
    name: str
    type: str


@dataclass(slots=True)
class Imm:
    """A literal: an integer, or the bits of a float of `float_bytes` bytes."""

    value: int
    float_bytes: int = 0


@dataclass(slots=True)
class Special:
    """A special register: %tid.x, %laneid, ..."""

    name: str


@dataclass(slots=True)
class Symbol:
    """The address of a variable or of a parameter, plus bytes; or a label."""

    name: str
    offset: int = 0


@dataclass(slots=True)
class Address:
    """[base + offset]; base None: an absolute address."""

    base: Reg | Symbol | None
    offset: int = 0


@dataclass(slots=True)
class Vector:
    """{a, b, ...}"""

    items: tuple[Operand, ...]


@dataclass(slots=True)
class Pair:
    """d|p, the two results of shfl, setp, match and vote."""

    first: Operand
    second: Operand


@dataclass(slots=True)
class Not:
    """!p"""

    reg: Reg


@dataclass(slots=True)
class Sink:
    """_: a result that nobody wants."""


Operand = Reg | Imm | Special | Symbol | Address | Vector | Pair | Not | Sink


@dataclass(slots=True)
class Instruction:
    """One instruction; `guard` is (predicate, wanted value)."""

    line: int
    opcode: str
    operands: tuple[Operand, ...]
    guard: tuple[Reg, bool] | None
    loc: tuple[int, int]  # (file number, line) of the source
    text: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A .global, .const, .shared or .local variable; relocations: (offset, symbol, is generic)."""

    name: str
    space: str
    num_bytes: int
    align: int
    init: bytes = b""
    relocations: tuple[tuple[int, Symbol, bool], ...] = ()
    is_extern: bool = False

    @property
    def size(self) -> int:
        return self.num_bytes


@dataclass(slots=True)
class Kernel:
    """One entry: its instructions, and where its labels and variables are."""

    name: str
    signature: Signature
    program: Program
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # label -> index of an instruction
    branch_lists: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of .branchtargets
    registers: list[Reg] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)  # .shared and .local
    offsets: dict[str, int] = field(default_factory=dict)  # of those, in their space
    shared_bytes: int = 0  # static and aligned; dynamic shared memory starts here
    local_bytes: int = 0
    unsupported: list[tuple[int, str]] = field(default_factory=list)

    @property
    def static_shared_bytes(self) -> int:
        return self.signature.limits.static_shared_bytes

    @property
    def max_threads(self) -> int | None:
        return self.signature.limits.max_threads

    def source_line(self, instruction: Instruction) -> str:
        """ "kernel.cu:133", or empty without line information."""
        file = self.program.files.get(instruction.loc[0], "")
        return f"{file.rpartition('/')[2]}:{instruction.loc[1]}" if file else ""


@dataclass(slots=True)
class Program:
    """One PTX text."""

    version: tuple[int, int]
    target: str
    sha256: str
    kernels: dict[str, Kernel] = field(default_factory=dict)
    globals: dict[str, Variable] = field(default_factory=dict)  # .global and .const
    shared: dict[str, Variable] = field(default_factory=dict)  # .shared at module level
    functions: set[str] = field(default_factory=set)  # .func names
    files: dict[int, str] = field(default_factory=dict)
