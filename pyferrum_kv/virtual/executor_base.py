"""What the parts of the executor share: the launch, the lanes, and how findings are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.lanes import Active, Dim, Lanes, Mask
from pyferrum_kv.virtual.memory import Memory
from pyferrum_kv.virtual.report import Report, ReportKind

if TYPE_CHECKING:
    from pyferrum_kv.virtual.cta_races import CtaRaces
    from pyferrum_kv.virtual.metrics import Counters
    from pyferrum_kv.virtual.program import Kernel

MOST_REPORTS = 100


class KernelFault(Exception):
    """A launch that ends its context. `kind` is hardware's word, `report` says the rest."""

    def __init__(self, report: Report, kind: ReportKind | None = None) -> None:
        self.report = report
        self.kind: ReportKind = kind or report.kind
        super().__init__(str(report))


class Parameters(dict[tuple[int, Any], Any]):
    """The parameter block: (offset, NumPy type) -> value."""

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self.block = block

    def __missing__(self, key: tuple[int, Any]) -> Any:
        offset, kind = key
        self[key] = value = np.frombuffer(self.block, kind, 1, offset)[0]
        return value


@dataclass(slots=True)
class Launch:
    """One launch, as all its chunks see it."""

    kernel: Kernel
    grid: Dim
    block: Dim
    shared_bytes: int  # static and dynamic
    dynamic_shared_bytes: int
    parameters: Parameters
    globals: dict[str, Any]
    memory: Memory
    sanitize: bool
    budget: int
    granule_bytes: int  # the narrowest access to shared memory
    counters: Counters
    races: CtaRaces | None
    reports: list[Report] = field(default_factory=list)
    told: set[tuple[str, int]] = field(default_factory=set)


class ExecutorBase:
    """The state of one chunk that loads, stores and collectives work on."""

    def __init__(self, launch: Launch, lanes: Lanes) -> None:
        self.launch, self.lanes, self.memory = launch, lanes, launch.memory
        self.parameters, self.globals = launch.parameters, launch.globals
        self.sanitize = launch.sanitize
        self.counters = launch.counters
        self.races = launch.races
        self.live: Mask = lanes.exists.copy()  # lanes that have not exited
        self.num_live = int(np.count_nonzero(self.live))
        self.clock = 0  # steps, one for each segment and each access that is judged

    def report(
        self,
        kind: ReportKind,
        site: int,
        lane: int,
        detail: str,
        *,
        lanes: int = 1,
        other: str = "",
    ) -> Report:
        """A Report of the instruction `site` and a lane of the chunk."""
        kernel = self.launch.kernel
        instruction = kernel.instructions[min(site, len(kernel.instructions) - 1)]
        cta, thread = self.lanes.coordinates(lane)
        return Report(
            kind=kind,
            detail=detail,
            kernel=kernel.name,
            cta=cta,
            thread=thread,
            lanes=lanes,
            ptx_line=instruction.line,
            ptx_text=instruction.text,
            cu_line=kernel.source_line(instruction),
            other=other,
        )

    def tell(
        self,
        kind: ReportKind,
        site: int,
        lane: int,
        detail: str,
        *,
        lanes: int = 1,
        other: str = "",
    ) -> None:
        """Enter a finding, the first of its kind at an instruction."""
        told = self.launch.told
        if (kind, site) in told or len(self.launch.reports) >= MOST_REPORTS:
            return
        told.add((kind, site))
        self.launch.reports.append(self.report(kind, site, lane, detail, lanes=lanes, other=other))

    def is_told(self, kind: ReportKind, site: int) -> bool:
        return (kind, site) in self.launch.told

    def where(self, site: int) -> str:
        """An instruction in words, for the second party of a finding."""
        kernel = self.launch.kernel
        instruction = kernel.instructions[site]
        source = kernel.source_line(instruction)
        return f"{source} <- ptx:{instruction.line} {instruction.text}".removeprefix(" <- ")

    def trap(self, active: Active, site: int) -> None:
        lane = int(active.lanes[0])
        raise KernelFault(
            self.report("trap", site, lane, "trap instruction executed", lanes=active.count)
        )
