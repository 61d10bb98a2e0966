"""An estimate of the registers that a kernel needs: only ptxas knows, and occupancy asks."""

from __future__ import annotations

from collections.abc import Iterator

from pyferrum_kv.virtual.program import Address, Kernel, Not, Operand, Pair, Reg, Symbol, Vector

LEAST, MOST, UNIT = 16, 255, 8


def estimated_registers(kernel: Kernel) -> int:
    """The most 32-bit registers live at once in the PTX, in units of 8; predicates cost none."""
    known = _known.get(id(kernel))
    if known is None or known[0] is not kernel:
        known = _known[id(kernel)] = (kernel, _most_live(kernel))
    return known[1]


_known: dict[int, tuple[Kernel, int]] = {}


def _most_live(kernel: Kernel) -> int:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    words: dict[int, int] = {}
    for at, instruction in enumerate(kernel.instructions):
        guard = (instruction.guard[0],) if instruction.guard else ()
        for register in (r for o in (*instruction.operands, *guard) for r in _registers(o)):
            first.setdefault(register.number, at)
            last[register.number] = at
            words[register.number] = _words(register.type)
    for at, instruction in enumerate(kernel.instructions):
        for operand in instruction.operands:
            target = kernel.labels.get(operand.name, at) if isinstance(operand, Symbol) else at
            if instruction.opcode.startswith("bra") and target < at:
                # What is live on entry to a loop stays live to its end.
                for number, begin in first.items():
                    if begin < target <= last[number] < at:
                        last[number] = at
    change: dict[int, int] = {}
    for number, begin in first.items():
        change[begin] = change.get(begin, 0) + words[number]
        change[last[number] + 1] = change.get(last[number] + 1, 0) - words[number]
    live = most = 0
    for at in sorted(change):
        live += change[at]
        most = max(most, live)
    return max(LEAST, min(MOST, -(-most // UNIT) * UNIT))


def _registers(operand: Operand) -> Iterator[Reg]:
    if isinstance(operand, Reg):
        yield operand
    elif isinstance(operand, Not):
        yield operand.reg
    elif isinstance(operand, Address) and operand.base is not None:
        yield from _registers(operand.base)
    elif isinstance(operand, Vector):
        for item in operand.items:
            yield from _registers(item)
    elif isinstance(operand, Pair):
        yield from _registers(operand.first)
        yield from _registers(operand.second)


def _words(type_: str) -> int:
    if type_ == "pred":
        return 0
    return 4 if type_ == "b128" else 2 if type_.endswith("64") else 1
