"""What the virtual device found wrong: one report for each fault, in compute-sanitizer's words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ReportKind = Literal[
    "illegal_address",  # no live allocation holds these bytes
    "misaligned",  # the address is no multiple of the access size
    "use_after_free",
    "uninitialized",  # read of bytes that nothing has written
    "race",  # shared memory, two threads, one barrier interval
    "cta_race",  # global memory, two CTAs of one launch
    "stale_read",  # ld.global.nc of bytes that the same launch writes
    "in_flight",  # bytes of a cp.async that was not waited for
    "divergent_barrier",  # not every live thread of the CTA reaches the barrier
    "warp_sync",  # a warp collective with lanes missing or masks that differ
    "trap",
    "timeout",  # the instruction budget ran out: a spin loop
    "stream_hazard",  # two streams touch the same bytes without an order
    "leak",
]

FAULTS: frozenset[ReportKind] = frozenset(
    ("illegal_address", "misaligned", "use_after_free", "trap", "timeout")
)
"""Kinds that end a context on hardware as well; the other kinds are findings."""


@dataclass(frozen=True, slots=True)
class Report:
    """One finding. A field that does not apply is empty; `lanes` counts the threads concerned."""

    kind: ReportKind
    detail: str
    kernel: str = ""
    cta: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None
    lanes: int = 0
    ptx_line: int = 0
    ptx_text: str = ""
    cu_line: str = ""  # "kernel.cu:133", from .loc
    other: str = ""  # the second party of a race, the allocation missed, ...

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"========= {self.kind.replace('_', ' ')}: {self.detail}"
        if self.ptx_line:
            source = f"{self.cu_line} <- " if self.cu_line else ""
            yield f"=========     at {source}ptx:{self.ptx_line} {self.ptx_text}"
        if self.kernel:
            by = f", thread {_coordinates(self.thread)}" if self.thread else ""
            block = f", block {_coordinates(self.cta)}" if self.cta else ""
            others = f", {self.lanes} threads in all" if self.lanes > 1 else ""
            yield f"=========     by kernel {self.kernel}{block}{by}{others}"
        if self.other:
            yield f"=========     {self.other}"


def _coordinates(index: tuple[int, int, int] | None) -> str:
    return "(" + ",".join(map(str, index or ())) + ")"
