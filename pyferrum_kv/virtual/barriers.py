"""bar and barrier: lanes wait for all live lanes of their CTA, or for as many as asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.executor_base import KernelFault
from pyferrum_kv.virtual.lanes import Active, Mask
from pyferrum_kv.virtual.program import Reg
from pyferrum_kv.virtual.segments import Segment

if TYPE_CHECKING:
    from pyferrum_kv.virtual.executor import Executor


@dataclass(slots=True)
class Waiting:
    """Lanes that arrived at one barrier instruction."""

    end: Segment
    number: int
    count: int | None  # threads to wait for; None: all live ones of the CTA
    mask: Mask
    predicate: Any = None  # bool [all lanes], of bar.red


class Barriers:
    """The barriers of one chunk."""

    def __init__(self, executor: Executor) -> None:
        self.x = executor
        self.waiting: list[Waiting] = []
        self.arrived: dict[int, Any] = {}  # barrier number -> [CTAs] threads of bar.arrive

    def arrive(self, active: Active, end: Segment, control: tuple[Any, ...]) -> None:
        """Lanes reach a barrier: (number, thread count or None, predicate or None)."""
        numbers, count, predicate = control
        if predicate is not None:
            whole = np.zeros(self.x.lanes.total, bool)
            whole[active.lanes] = active.each(predicate)
            predicate = whole
        for number in np.unique(active.each(numbers)).tolist():
            mask = active.mask
            if numbers.ndim:
                mask = np.zeros_like(active.mask)
                mask[active.lanes] = active.each(numbers) == number
            wanted = None if count is None else int(np.max(active.each(count)))
            self._enter(Waiting(end, int(number), wanted, mask, predicate))

    def _enter(self, waiting: Waiting) -> None:
        x = self.x
        if ".arrive" in x.compiled.kernel.instructions[waiting.end.stop - 1].opcode:
            counts = self._by_cta(waiting.mask)
            self.arrived[waiting.number] = self.arrived.get(waiting.number, 0) + counts
            x._arrive(waiting.end.index + 1, waiting.mask)
            self.open()
            return
        for other in self.waiting:
            if (other.end.index, other.number) == (waiting.end.index, waiting.number):
                if waiting.predicate is not None:
                    other.predicate = np.where(waiting.mask, waiting.predicate, other.predicate)
                other.mask = other.mask | waiting.mask
                self.open()
                return
        if waiting.count is None and not self.arrived and np.array_equal(waiting.mask, x.live):
            self._release(waiting, waiting.mask)  # the usual case: everybody at once
        else:
            self.waiting.append(waiting)
            self.open()

    def _by_cta(self, mask: Mask) -> Any:
        return mask.reshape(self.x.lanes.num_ctas, -1).sum(1)

    def open(self) -> bool:
        """Let through every CTA that is complete at a barrier; False: none is."""
        opened = False
        ctas = self.x.lanes.num_ctas
        live = self._by_cta(self.x.live)
        for number in {w.number for w in self.waiting}:
            same = [w for w in self.waiting if w.number == number]
            there = sum(self._by_cta(w.mask) for w in same)
            arrived = self.arrived.get(number, np.zeros(ctas, np.int64))
            counts = [w.count for w in same if w.count is not None]
            wanted = np.full(ctas, max(counts)) if counts else live
            complete = (there > 0) & (there + arrived >= wanted)
            if not complete.any():
                continue
            opened = True
            self.arrived[number] = np.where(complete, 0, arrived)
            if not self.arrived[number].any():
                self.arrived.pop(number)
            lanes = np.repeat(complete, self.x.lanes.stride)
            self._check_alignment(same, lanes)
            for waiting in same:
                through = waiting.mask & lanes
                if through.any():
                    waiting.mask = waiting.mask & ~lanes
                    self._release(waiting, through)
        self.waiting = [w for w in self.waiting if w.mask.any()]
        return opened

    def _release(self, waiting: Waiting, mask: Mask) -> None:
        x = self.x
        if x.shared_races is not None:
            x.shared_races.synced(mask)
        if x.races is not None:
            x.races.order.barrier(x, mask)
        if waiting.predicate is not None:
            self._store_result(waiting, mask)
        x._arrive(waiting.end.index + 1, mask)

    def _store_result(self, waiting: Waiting, mask: Mask) -> None:
        """bar.red: reduce over the CTA's threads at the barrier, into the result register."""
        instruction = self.x.compiled.kernel.instructions[waiting.end.stop - 1]
        target = instruction.operands[0]
        assert isinstance(target, Reg)
        counts = self._by_cta(mask & waiting.predicate)
        there = self._by_cta(mask)
        if ".popc." in instruction.opcode:
            result: Any = counts.astype(np.uint32)
        elif ".and." in instruction.opcode:
            result = counts == there
        else:
            result = counts > 0
        active = self.x.lanes.subset(mask)
        values = np.repeat(result, self.x.lanes.stride)
        registers = self.x.registers
        rows = active.gather(values) if active.is_compact else values
        registers[target.number] = active.store(registers[target.number], rows)

    # ------------------------------------------------------------ findings

    def _check_alignment(self, same: list[Waiting], lanes: Mask) -> None:
        """bar.sync must be one instruction for all threads of the CTA."""
        here = [w for w in same if (w.mask & lanes).any()]
        if len(here) < 2:
            return
        by_cta = np.stack([self._by_cta(w.mask & lanes) > 0 for w in here])
        mixed = np.flatnonzero(by_cta.sum(0) > 1)
        if not mixed.size:
            return
        mine, theirs = [w for w, there in zip(here, by_cta[:, mixed[0]], strict=False) if there][:2]
        kernel = self.x.compiled.kernel
        opcode = kernel.instructions[mine.end.stop - 1].opcode
        if opcode.startswith("barrier") and ".aligned" not in opcode:
            return
        first = int(mixed[0]) * self.x.lanes.stride
        own = np.flatnonzero(mine.mask[first : first + self.x.lanes.stride])
        self.x.tell(
            "divergent_barrier",
            mine.end.stop - 1,
            first + int(own[0]),
            f"threads of one CTA wait at different barrier instructions, number {mine.number}",
            lanes=own.size,
            other=f"others wait at {self.x.where(theirs.end.stop - 1)}",
        )

    def deadlock(self) -> None:
        """Lanes wait and nobody is left to come."""
        waiting = self.waiting[0]
        lane = int(np.flatnonzero(waiting.mask)[0])
        cta = int(self.x.lanes.slot[lane])
        there = int(self._by_cta(waiting.mask)[cta])
        live = int(self._by_cta(self.x.live)[cta])
        wanted = waiting.count if waiting.count is not None else live
        others = [w for w in self.waiting[1:] if self._by_cta(w.mask)[cta]]
        other = f"others wait at {self.x.where(others[0].end.stop - 1)}" if others else ""
        report = self.x.report(
            "divergent_barrier",
            waiting.end.stop - 1,
            lane,
            f"barrier {waiting.number} waits for {wanted} threads, {there} came, nobody else can",
            lanes=there,
            other=other,
        )
        raise KernelFault(report, "timeout")
