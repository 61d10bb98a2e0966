"""Instructions -> segments: straight runs that end where lanes may part, wait or meet.

A segment starts at a label, after a branch, an exit or a barrier, at every warp collective (the
lanes of a warp must meet there) and around an effect under a guard, which thereby becomes a branch.
Segments are numbered in the order of the text, and the number is the pc.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyferrum_kv.virtual.form import Form, find_form
from pyferrum_kv.virtual.program import (
    Address,
    Instruction,
    Kernel,
    Not,
    Operand,
    Pair,
    Reg,
    Symbol,
    Vector,
)

End = Literal["fall", "branch", "table", "barrier", "exit"]


@dataclass(slots=True)
class Segment:
    """Instructions start..stop-1, the last of which is the one that ends it, if any does."""

    index: int
    start: int
    stop: int
    end: End = "fall"
    guard: tuple[Reg, bool] | None = None  # of a branch or an exit: taken when reg == value
    targets: tuple[int, ...] = ()  # segments a branch may go to
    is_warp: bool = False  # starts with a warp collective
    is_block_start: bool = False
    uses: set[int] = field(default_factory=set)
    defines: set[int] = field(default_factory=set)
    live_in: set[int] = field(default_factory=set)
    live_out: set[int] = field(default_factory=set)

    def successors(self, count: int) -> list[int]:
        falls = self.index + 1 < count and not (
            self.end in ("exit", "branch", "table") and self.guard is None
        )
        return [*self.targets, *([self.index + 1] if falls else [])]


def split(kernel: Kernel) -> list[Segment]:
    """The segments of a kernel, with their live registers."""
    instructions = kernel.instructions
    forms = [find_form(i.opcode) for i in instructions]
    segments: list[Segment] = []
    first: dict[int, int] = {}  # instruction -> the segment that starts there
    for start, stop in _runs(kernel, forms):
        index = len(segments)
        first[start] = index
        instruction, form = instructions[start], forms[start]
        if instruction.guard and form.kind in ("effect", "warp", "barrier"):
            register, wanted = instruction.guard
            skip = Segment(index, start, start, "branch", (register, not wanted))
            segments.append(skip)
            index += 1
        segment = Segment(index, start, stop, is_warp=form.kind == "warp")
        last = forms[stop - 1].kind
        if last in ("branch", "exit"):
            is_table = last == "branch" and instructions[stop - 1].opcode.startswith("brx")
            segment.end = "table" if is_table else "branch" if last == "branch" else "exit"
            segment.guard = instructions[stop - 1].guard
        elif last == "barrier":
            segment.end = "barrier"
        segments.append(segment)
    labels = set(kernel.labels.values())
    after_end = True
    for segment in segments:
        segment.is_block_start = after_end or segment.start in labels or not segment.is_warp
        after_end = segment.end != "fall"
        segment.targets = _targets(kernel, segment, first, len(segments))
    _find_live(kernel, segments, forms)
    return segments


def _runs(kernel: Kernel, forms: list[Form]) -> list[tuple[int, int]]:
    count = len(forms)
    leaders = {0, *kernel.labels.values()}
    for i, form in enumerate(forms):
        if form.kind in ("branch", "exit", "barrier"):
            leaders.add(i + 1)
        if form.kind == "warp":
            leaders.add(i)
        if kernel.instructions[i].guard and form.kind in ("effect", "warp", "barrier"):
            leaders.update((i, i + 1))
    ordered = sorted(n for n in leaders if n < count)
    return list(zip(ordered, [*ordered[1:], count], strict=False))


def _targets(
    kernel: Kernel, segment: Segment, first: dict[int, int], count: int
) -> tuple[int, ...]:
    if segment.end not in ("branch", "table"):
        return ()
    if segment.start == segment.stop:  # the guard of an effect: past it
        return (segment.index + 2,)
    operand = kernel.instructions[segment.stop - 1].operands[-1]
    assert isinstance(operand, Symbol)
    names = kernel.branch_lists[operand.name] if segment.end == "table" else (operand.name,)
    return tuple(first.get(kernel.labels[name], count) for name in names)


# -------------------------------------------------------------- liveness


def registers_of(operand: Operand) -> list[Reg]:
    """The registers that an operand names."""
    if isinstance(operand, Reg):
        return [operand]
    if isinstance(operand, Not):
        return [operand.reg]
    if isinstance(operand, Address):
        return registers_of(operand.base) if isinstance(operand.base, Reg) else []
    if isinstance(operand, Vector):
        return [r for item in operand.items for r in registers_of(item)]
    if isinstance(operand, Pair):
        return registers_of(operand.first) + registers_of(operand.second)
    return []


def reads_and_writes(instruction: Instruction, form: Form) -> tuple[list[Reg], list[Reg]]:
    count = len(form.results)
    writes = [r for o in instruction.operands[:count] for r in registers_of(o)]
    reads = [r for o in instruction.operands[count:] for r in registers_of(o)]
    return reads, writes


def _find_live(kernel: Kernel, segments: list[Segment], forms: list[Form]) -> None:
    for segment in segments:
        if segment.guard:
            guard_uses = {segment.guard[0].number}
        else:
            guard_uses = set()
        for i in range(segment.start, segment.stop):
            instruction, form = kernel.instructions[i], forms[i]
            reads, writes = reads_and_writes(instruction, form)
            blended = instruction.guard is not None and form.kind == "pure"
            used = {r.number for r in reads}
            if blended and instruction.guard:
                used |= {instruction.guard[0].number, *(r.number for r in writes)}
            segment.uses |= used - segment.defines
            if form.kind != "barrier":  # a barrier's result is stored when it opens
                segment.defines |= {r.number for r in writes}
        segment.uses |= guard_uses - segment.defines
    changed = True
    while changed:
        changed = False
        for segment in reversed(segments):
            out: set[int] = set()
            for successor in segment.successors(len(segments)):
                if successor < len(segments):
                    out |= segments[successor].live_in
            live = segment.uses | (out - segment.defines)
            if live != segment.live_in or out != segment.live_out:
                segment.live_in, segment.live_out, changed = live, out, True
