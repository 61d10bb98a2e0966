"""Variables of PTX: declarations, initialisers, and their places in shared and local memory."""

from __future__ import annotations

import re
import struct
from math import prod

from pyferrum_kv.ptx_reader import PtxSyntaxError
from pyferrum_kv.virtual.program import TYPE_BYTES, Address, Instruction, Kernel, Symbol, Variable

_DECLARATION = re.compile(
    r"""(?:\.(?P<linkage>visible|weak|extern|common)\s+)?\.(?P<space>global|const|shared|local)
    (?P<attributes>(?:\s*\.(?:align\s+\d+|attribute\([^)]*\)|v[24](?=\s)))*)
    \s*\.(?P<type>\w+)\s+(?P<name>[A-Za-z_$%][\w$]*)\s*(?P<dims>(?:\[\s*\d*\s*\]\s*)*)
    (?:=\s*(?P<init>.*?))?\s*;\Z""",
    re.VERBOSE | re.DOTALL,
)
_FLOAT = re.compile(r"0[fF]([0-9a-fA-F]{8})\Z|0[dD]([0-9a-fA-F]{16})\Z")
_SYMBOL = re.compile(r"(generic\s*\(\s*)?([A-Za-z_$%][\w$]*)\s*\)?\s*(?:\+\s*(\d+))?\Z")


def read_variable(text: str, line: int) -> Variable:
    """Read one declaration, its `;` included."""
    found = _DECLARATION.match(text)
    if found is None or found["type"] not in TYPE_BYTES:
        raise PtxSyntaxError(line, f"{text[:80]!r} is no variable")
    lanes = re.search(r"\.v([24])", found["attributes"])
    element = TYPE_BYTES[found["type"]] * (int(lanes[1]) if lanes else 1)
    dims = [int(n) if n.strip() else 0 for n in re.findall(r"\[([^\]]*)\]", found["dims"])]
    align = re.search(r"\.align\s+(\d+)", found["attributes"])
    init, relocations = b"", []
    if found["init"]:
        values = re.findall(r"[^{},]+", found["init"])
        size = TYPE_BYTES[found["type"]]
        for i, value in enumerate(v.strip() for v in values if v.strip()):
            data, symbol = _initial(value, found["type"], line)
            init += data
            if symbol:
                relocations.append((i * size, *symbol))
    is_extern = found["linkage"] == "extern"
    if dims and dims[0] == 0 and init:
        dims[0] = -(-len(init) // (element * prod(dims[1:])))
    num_bytes = element * prod(dims)
    return Variable(
        found["name"],
        found["space"],
        0 if is_extern and found["space"] == "shared" else num_bytes,
        int(align[1]) if align else element,
        init.ljust(num_bytes, b"\0") if init else b"",
        tuple(relocations),
        is_extern,
    )


def _initial(value: str, ptx_type: str, line: int) -> tuple[bytes, tuple[Symbol, bool] | None]:
    size = TYPE_BYTES[ptx_type]
    if found := _FLOAT.match(value):
        return bytes.fromhex(found[1] or found[2])[::-1], None
    try:
        number = int(value.rstrip("U"), 0)
        return (number & ((1 << 8 * size) - 1)).to_bytes(size, "little"), None
    except ValueError:
        pass
    try:
        return struct.pack({4: "<f", 8: "<d"}[size], float(value)), None
    except (ValueError, KeyError):
        pass
    if found := _SYMBOL.match(value):
        return bytes(size), (Symbol(found[2], int(found[3] or 0)), bool(found[1]))
    raise PtxSyntaxError(line, f"{value!r} is no initial value of .{ptx_type}")


def lay_out(kernel: Kernel) -> None:
    """Give every .shared and .local variable that the kernel has or names its offset."""
    named = _symbols(kernel.instructions)
    for name, variable in kernel.program.shared.items():
        if name in named:
            kernel.variables.setdefault(name, variable)
    top = {"shared": 0, "local": 0}
    dynamic = [v for v in kernel.variables.values() if v.is_extern]
    for variable in kernel.variables.values():
        if not variable.is_extern:
            start = -(-top[variable.space] // variable.align) * variable.align
            kernel.offsets[variable.name] = start
            top[variable.space] = start + variable.num_bytes
    kernel.shared_bytes, kernel.local_bytes = top["shared"], top["local"]
    align = max((v.align for v in dynamic), default=1)
    kernel.shared_bytes = -(-kernel.shared_bytes // align) * align
    for variable in dynamic:
        kernel.offsets[variable.name] = kernel.shared_bytes


def _symbols(instructions: list[Instruction]) -> set[str]:
    names: set[str] = set()
    for instruction in instructions:
        for operand in instruction.operands:
            target = operand.base if isinstance(operand, Address) else operand
            if isinstance(target, Symbol):
                names.add(target.name)
    return names
