"""Exact facts of a launch: instructions, bytes, sectors and bank conflicts, by PTX line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.lanes import WARP, Active, Indices
from pyferrum_kv.virtual.report import Report

if TYPE_CHECKING:
    from pyferrum_kv.virtual.compiled import Code
    from pyferrum_kv.virtual.program import Kernel

SECTOR_BYTES, BANK_BYTES, NUM_BANKS = 32, 4, 32


@dataclass(slots=True)
class LineFacts:
    """What one instruction did in a launch, over all warps. Memory fields are 0 without metrics."""

    ptx_line: int
    ptx_text: str
    cu_line: str
    instructions: int = 0  # warp-level: a warp with any active lane counts once
    num_bytes: int = 0  # that the active lanes asked for
    requests: int = 0  # warp-level accesses of global memory
    sectors: int = 0  # 32-byte sectors that these touched
    shared_requests: int = 0
    shared_passes: int = 0  # passes over the banks; one for each request is free of conflicts

    @property
    def bank_conflicts(self) -> int:
        """Passes beyond what the width of the accesses needs."""
        return self.shared_passes - self.shared_requests


class Counters:
    """Collects the facts while a launch runs; `detailed` adds sectors and bank passes."""

    def __init__(self, kernel: Kernel, detailed: bool) -> None:
        self.kernel, self.detailed = kernel, detailed
        self.runs: dict[int, tuple[Code, int]] = {}  # by id of the code: (code, warps)
        self.global_facts: dict[int, list[int]] = {}  # site -> bytes, requests, sectors
        self.shared_facts: dict[int, list[int]] = {}  # site -> bytes, requests, passes

    def ran(self, code: Code, num_warps: int) -> None:
        known = self.runs.get(id(code))
        self.runs[id(code)] = (code, num_warps + (known[1] if known else 0))

    def global_access(self, active: Active, index: Indices, size: int, site: int) -> None:
        if not self.detailed:
            return
        facts = self.global_facts.setdefault(site, [0, 0, 0])
        warp = active.lanes // WARP
        sector = np.broadcast_to(index, warp.shape) * size // SECTOR_BYTES
        facts[0] += active.count * size
        facts[1] += active.num_warps
        facts[2] += _distinct(warp, sector)

    def shared_access(
        self, active: Active, index: Indices, lanes: Indices, size: int, site: int, stride: int
    ) -> None:
        if not self.detailed:
            return
        facts = self.shared_facts.setdefault(site, [0, 0, 0])
        # wide accesses go in halves (8 bytes) or quarters (16 bytes) of a warp, one phase each
        phases = max(1, size // BANK_BYTES)
        group = lanes * phases // WARP
        at = index * size
        words = at[:, None] // BANK_BYTES + np.arange(phases) if phases > 1 else at[:, None] // 4
        groups = np.repeat(group, words.shape[1])
        facts[0] += lanes.size * size
        requests = np.unique(group).size
        facts[1] += requests
        facts[2] += _passes(groups, words.reshape(-1))

    def lines(self) -> list[LineFacts]:
        """The facts of every instruction that ran, in the order of the text."""
        counts: dict[int, int] = {}
        for code, warps in self.runs.values():
            for i in range(code.first, code.stop):
                counts[i] = counts.get(i, 0) + warps
        found: list[LineFacts] = []
        for site in sorted(counts):
            instruction = self.kernel.instructions[site]
            line = LineFacts(
                instruction.line,
                instruction.text,
                self.kernel.source_line(instruction),
                counts[site],
            )
            if site in self.global_facts:
                line.num_bytes, line.requests, line.sectors = self.global_facts[site]
            if site in self.shared_facts:
                num_bytes, line.shared_requests, line.shared_passes = self.shared_facts[site]
                line.num_bytes += num_bytes
            found.append(line)
        return found


@dataclass(slots=True)
class LaunchFacts:
    """One launch, counted. Bytes, sectors and conflicts are 0 unless metrics were asked for."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    counters: Counters
    reports: list[Report] = field(default_factory=list)
    accesses: list[tuple[int, int, bool]] = field(default_factory=list)  # (low, high, wrote)

    @property
    def lines(self) -> list[LineFacts]:
        return self.counters.lines()

    @property
    def instructions(self) -> int:
        """Warp-level instructions."""
        return sum((code.stop - code.first) * warps for code, warps in self.counters.runs.values())

    @property
    def global_bytes(self) -> int:
        return sum(line.num_bytes for line in self.lines if line.requests)

    @property
    def sectors(self) -> int:
        return sum(line.sectors for line in self.lines)

    @property
    def requests(self) -> int:
        return sum(line.requests for line in self.lines)

    @property
    def bank_conflicts(self) -> int:
        return sum(line.bank_conflicts for line in self.lines)


def _distinct(group: Any, value: Any) -> int:
    """How many different values the groups have, group by group."""
    return int(np.unique(np.stack([group, value], 1), axis=0).shape[0]) if group.size else 0


def _passes(group: Any, word: Any) -> int:
    """Bank passes: for each group, the most different words that one bank must give."""
    pairs = np.unique(np.stack([group, word], 1), axis=0)
    banks, counts = np.unique(
        np.stack([pairs[:, 0], pairs[:, 1] % NUM_BANKS], 1), axis=0, return_counts=True
    )
    order = np.flatnonzero(np.r_[True, banks[1:, 0] != banks[:-1, 0]])
    return int(np.maximum.reduceat(counts, order).sum())
