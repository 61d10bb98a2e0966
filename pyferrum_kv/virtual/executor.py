"""Runs the lanes of a chunk: the lowest pc first, so that lanes which parted meet again.

The lanes at one segment are one set. A branch splits it, segments join what arrives at them, a
barrier holds it until its CTA is there. A warp collective waits for the lanes of its member mask;
when nothing else can run and they have not come, that is a finding and the collective goes on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyferrum_kv.virtual.atomics import Atomics
from pyferrum_kv.virtual.barriers import Barriers
from pyferrum_kv.virtual.compiled import Code, CompiledKernel
from pyferrum_kv.virtual.executor_base import KernelFault, Launch
from pyferrum_kv.virtual.lanes import WARP, Active, Lanes, Mask
from pyferrum_kv.virtual.program import Imm, Reg
from pyferrum_kv.virtual.segments import Segment

ROUND, HEAD_START = 512, 448
"""Of so many segments, all after the first 448 go to the highest pc: lanes that spin at a low pc
must not starve those that they wait for."""


class Executor(Atomics):
    """One chunk of CTAs from entry to exit."""

    def __init__(self, launch: Launch, lanes: Lanes, compiled: CompiledKernel) -> None:
        super().__init__(launch, lanes)
        self.compiled = compiled
        self.registers: list[Any] = compiled.initial_registers.copy()
        self.ready: dict[int, Mask] = {0: self.live.copy()}  # pc -> lanes
        self.parked: dict[int, Mask] = {}  # at a warp collective, for lanes to come
        self.barriers = Barriers(self)
        self._gives_up = False  # waiting for lanes of a warp is in vain

    def run(self) -> None:
        turns = 0
        steps = 0
        while True:
            if not self.ready and not self._unblock():
                return
            turns += 1
            if len(self.ready) > 1 and turns % ROUND >= HEAD_START:
                pc = max(self.ready)
            else:
                pc = min(self.ready)
            mask = self.ready.pop(pc)
            if pc >= len(self.compiled.segments):
                self._exit(mask)
                continue
            active = self.lanes.subset(mask)
            converged = self._is_converged(active)
            segment = self.compiled.segments[pc]
            if segment.is_warp and not converged:
                waits = self._absent_members(active, segment)
                if waits is not None:
                    self._park(pc, waits)
                    mask = mask & ~waits
                    if not mask.any():
                        continue
                    active = self.lanes.subset(mask)
            code = self.compiled.code(pc, converged)
            steps += code.stop - code.first + 1
            if steps > self.launch.budget:
                self._time_out(active, code)
            self._run_code(active, code)

    def release(self) -> None:
        """Let go of registers and shared memory; who the lanes are stays known."""
        self.registers.clear()
        self.shared.clear()
        self.written.clear()
        self.shared_races = None

    # ---------------------------------------------------------- segments

    def _run_code(self, active: Active, code: Code) -> None:
        self.counters.ran(code, active.num_warps)
        self.lanes.clock = self.clock
        registers = self.registers
        if active.is_compact:
            ins = [active.gather(registers[i]) for i in code.ins]
        else:
            ins = [registers[i] for i in code.ins]
        out = code.function(active, self, *ins)
        if active.is_full or (active.count == self.num_live and not active.is_compact):
            for number, value in zip(code.outs, out[code.control :], strict=False):
                registers[number] = value
        else:
            for number, value in zip(code.outs, out[code.control :], strict=False):
                registers[number] = active.store(registers[number], value)
        self._leave(active, code.end, out[: code.control])

    def _leave(self, active: Active, end: Segment, control: tuple[Any, ...]) -> None:
        """Send the lanes to their next segments."""
        following = end.index + 1
        if end.end == "fall":
            self._arrive(following, active.mask)
        elif end.end == "barrier":
            self.barriers.arrive(active, end, control)
        elif end.end == "table":
            self._jump_by_table(active, end, control)
        else:
            taken, stayed = self._split(active, control[0] if control else None)
            if taken is not None:
                if end.end == "exit":
                    self._exit(taken)
                else:
                    self._arrive(end.targets[0], taken)
            if stayed is not None:
                self._arrive(following, stayed)

    @staticmethod
    def _split(active: Active, condition: Any) -> tuple[Mask | None, Mask | None]:
        """(lanes that go, lanes that stay); None for nobody."""
        if condition is None:
            return active.mask, None
        chosen = active.active(condition)
        count = np.count_nonzero(chosen)
        if count == chosen.size:
            return active.mask, None
        if not count:
            return None, active.mask
        return active.split(condition)

    def _jump_by_table(self, active: Active, end: Segment, control: tuple[Any, ...]) -> None:
        mask = active.mask
        if len(control) == 2:
            taken, stayed = self._split(active, control[0])
            if stayed is not None:
                self._arrive(end.index + 1, stayed)
            if taken is None:
                return
            mask = taken
        choice = np.zeros(self.lanes.total, np.uint32)
        choice[active.lanes] = active.each(control[-1])
        for i, target in enumerate(end.targets):
            lanes = mask & (choice == i)
            if lanes.any():
                self._arrive(target, lanes)
        outside = mask & (choice >= len(end.targets))
        if outside.any():
            lane = int(np.flatnonzero(outside)[0])
            detail = f"index {int(choice[lane])} into a branch table of {len(end.targets)}"
            raise KernelFault(self.report("trap", end.stop - 1, lane, detail))

    def _arrive(self, pc: int, mask: Mask) -> None:
        there = self.ready.get(pc)
        waiting = self.parked.pop(pc, None)
        for other in (there, waiting):
            if other is not None:
                mask = mask | other
        self.ready[pc] = mask

    def _exit(self, mask: Mask) -> None:
        self.live = self.live & ~mask
        self.num_live = int(np.count_nonzero(self.live))
        for pc in list(self.parked):  # some wait for lanes that will never come
            self._arrive(pc, self.parked[pc])

    # -------------------------------------------------------- convergence

    def _is_converged(self, active: Active) -> bool:
        """Whether every live lane of the warps at work is at work."""
        if active.is_full or active.is_whole:
            return True
        warps = active.mask.reshape(-1, WARP).any(1)
        return not (self.live & ~active.mask).reshape(-1, WARP)[warps].any()

    def _absent_members(self, active: Active, segment: Segment) -> Mask | None:
        """Lanes that must wait because their member mask names live lanes that are elsewhere."""
        instruction = self.compiled.kernel.instructions[segment.start]
        words = instruction.opcode.split(".")
        operand = instruction.operands[-1]
        if words[0] in ("mma", "movmatrix", "ldmatrix", "stmatrix"):
            members: Any = np.uint32(0xFFFFFFFF)
        elif isinstance(operand, Imm):
            members = np.uint32(operand.value & 0xFFFFFFFF)
        elif isinstance(operand, Reg):
            members = self.registers[operand.number]
        else:
            return None
        lanes = np.broadcast_to(members, (self.lanes.total,)).reshape(-1, WARP)
        here = active.mask.reshape(-1, WARP)
        bits = np.uint32(1) << np.arange(WARP, dtype=np.uint32)
        elsewhere = ((self.live.reshape(-1, WARP) & ~here) * bits).sum(1, dtype=np.uint32)
        waits = here & ((lanes & elsewhere[:, None]) != 0)
        if not waits.any():
            return None
        if self._gives_up:
            self._gives_up = False
            return None
        parted: Mask = waits.reshape(-1)
        return parted

    def _park(self, pc: int, mask: Mask) -> None:
        there = self.parked.get(pc)
        self.parked[pc] = mask if there is None else mask | there

    def _unblock(self) -> bool:
        """Nothing is ready: open barriers, or give up waiting for a warp. False: all is done."""
        self._gives_up = False
        if self.barriers.open():
            return True
        if self.parked:
            pc = min(self.parked)
            self.ready[pc] = self.parked.pop(pc)
            self._gives_up = True
            return True
        if self.barriers.waiting:
            self.barriers.deadlock()
        return False

    def _time_out(self, active: Active, code: Code) -> None:
        detail = f"the instruction budget of {self.launch.budget} is spent; these lanes still run"
        lane = int(active.lanes[0])
        raise KernelFault(self.report("timeout", code.first, lane, detail, lanes=active.count))

    # --------------------------------------------------------------- fences

    def fence(self, active: Active, is_wide: bool) -> None:
        """membar, fence: `is_wide` when other CTAs are meant."""
        if is_wide and self.races is not None:
            self.races.order.fence(self, active)
