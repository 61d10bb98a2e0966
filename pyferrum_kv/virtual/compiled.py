"""Generated functions of a kernel, made on first use and kept for the life of the process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyferrum_kv.virtual.codegen import KEPT_AS, NAMESPACE, Emitter
from pyferrum_kv.virtual.program import Kernel, Reg
from pyferrum_kv.virtual.sanitizer import granule_bytes
from pyferrum_kv.virtual.segments import Segment, split


@dataclass(frozen=True, slots=True)
class Code:
    """One generated function and what surrounds its call."""

    function: Callable[..., tuple[Any, ...]]
    source: str
    ins: tuple[int, ...]  # registers passed
    outs: tuple[int, ...]  # registers returned, behind `control` values
    control: int
    first: int  # instructions first..stop-1
    stop: int
    end: Segment  # the segment that ends it


class CompiledKernel:
    """The segments of one kernel, and their functions."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.segments = split(kernel)
        zeros = {kind: np.dtype(kind).type(0) for kind in set(KEPT_AS.values())}
        self.initial_registers: list[Any] = [zeros[KEPT_AS[r.type]] for r in kernel.registers]
        self.granule_bytes = granule_bytes(kernel)
        self._code: dict[tuple[int, bool], Code] = {}

    def code(self, index: int, fused: bool) -> Code:
        """The function from segment `index`; `fused`: up to the end of its block."""
        found = self._code.get((index, fused))
        if found is None:
            last = index
            while fused and self._joins_next(last):
                last += 1
            found = self._code[index, fused] = self._generate(index, last)
        return found

    def _joins_next(self, index: int) -> bool:
        following = index + 1
        return (
            self.segments[index].end == "fall"
            and following < len(self.segments)
            and not self.segments[following].is_block_start
        )

    def _generate(self, first: int, last: int) -> Code:
        start, end = self.segments[first], self.segments[last]
        emitter = Emitter(self.kernel)
        stop = end.stop - (
            end.end in ("branch", "table", "barrier", "exit") and end.stop > end.start
        )
        for i in range(start.start, stop):
            emitter.instruction(i)
        control = self._control(emitter, end)
        outs = tuple(sorted(n for n in emitter.defined if n in end.live_out))
        name = f"segment_{first}"
        source = emitter.source(name, control, list(outs))
        namespace = {**NAMESPACE, **emitter.constants}
        filename = f"<{self.kernel.name} line {self._line(start)}>"
        exec(compile(source, filename, "exec"), namespace)
        ins = tuple(emitter.live_in)
        return Code(namespace[name], source, ins, outs, len(control), start.start, end.stop, end)

    def _line(self, segment: Segment) -> int:
        instructions = self.kernel.instructions
        return instructions[segment.start].line if segment.start < len(instructions) else 0

    def _control(self, emitter: Emitter, end: Segment) -> list[str]:
        """Expressions of what decides where the lanes go."""
        if end.end in ("branch", "exit"):
            return [self._guard(emitter, end.guard)] if end.guard else []
        if end.end == "table":
            index = self.kernel.instructions[end.stop - 1].operands[0]
            guard = [self._guard(emitter, end.guard)] if end.guard else []
            return [*guard, emitter.use(index, "u32")]
        if end.end == "barrier":
            return self._barrier(emitter, end)
        return []

    def _guard(self, emitter: Emitter, guard: tuple[Reg, bool]) -> str:
        register = emitter.read(guard[0])
        return register if guard[1] else f"~{register}"

    def _barrier(self, emitter: Emitter, end: Segment) -> list[str]:
        """(barrier number, thread count or None, predicate or None)."""
        instruction = self.kernel.instructions[end.stop - 1]
        is_reduction = ".red." in instruction.opcode
        operands = list(instruction.operands[1 if is_reduction else 0 :])
        predicate = emitter.use(operands.pop(), "pred") if is_reduction else "None"
        count = emitter.use(operands[1], "u32") if len(operands) > 1 else "None"
        return [emitter.use(operands[0], "u32"), count, predicate]


_COMPILED: dict[tuple[str, str], CompiledKernel] = {}
KEPT_KERNELS = 1024


def compiled(kernel: Kernel) -> CompiledKernel:
    """The compiled form of a kernel, by its text's hash and its name."""
    key = kernel.program.sha256, kernel.name
    found = _COMPILED.get(key)
    if found is None:
        if len(_COMPILED) >= KEPT_KERNELS:
            _COMPILED.clear()
        found = _COMPILED[key] = CompiledKernel(kernel)
    return found
