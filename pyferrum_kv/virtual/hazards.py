"""Stream hazards: two operations on the same bytes, one of them writing, that nothing orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyferrum_kv.virtual.order import Access, Work
from pyferrum_kv.virtual.report import Report

KEPT_PER_REGION = 128
"""Accesses remembered for a region; the oldest are dropped first."""
REGION_BITS = 16
"""Accesses are looked up by regions of 64 KiB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An access that was made, and by what."""

    access: Access
    lane: int
    seq: int
    label: str


class AccessHistory:
    """What the operations so far read and wrote, as far as the host has not waited for them."""

    def __init__(self) -> None:
        self._regions: dict[int, list[Entry]] = {}

    def clear(self) -> None:
        """All that happened is ordered before all that will: nothing to compare with."""
        self._regions.clear()

    def forget(self, low: int, high: int) -> None:
        """The bytes are newly allocated: what was done to them before is over."""
        for region in range(low >> REGION_BITS, (max(high, low + 1) - 1 >> REGION_BITS) + 1):
            kept = [
                e
                for e in self._regions.get(region, ())
                if e.access.high <= low or high <= e.access.low
            ]
            self._regions[region] = kept

    def check(self, work: Work, accesses: Sequence[Access]) -> Report | None:
        """Compare with what came before, then remember; the first hazard found, or None."""
        found: Report | None = None
        for access in accesses:
            if access.high <= access.low:
                continue
            entry = Entry(access, work.lane, work.seq, work.op.label)
            regions = range(access.low >> REGION_BITS, (access.high - 1 >> REGION_BITS) + 1)
            for region in regions:
                entries = self._regions.setdefault(region, [])
                for earlier in entries:
                    if found is None and _clash(earlier, access, work):
                        found = _report(earlier, entry)
                entries[:] = [e for e in entries if not _superseded(e, access, work)]
                entries.append(entry)
                del entries[:-KEPT_PER_REGION]
        return found


def _clash(earlier: Entry, access: Access, work: Work) -> bool:
    before = earlier.access
    return (
        (before.wrote or access.wrote)
        and before.low < access.high
        and access.low < before.high
        and (earlier.lane, earlier.seq) != (work.lane, work.seq)
        and not work.ordered_after(earlier.lane, earlier.seq)
    )


def _superseded(earlier: Entry, access: Access, work: Work) -> bool:
    """Whatever is unordered with `earlier` later is unordered with this access too."""
    before = earlier.access
    return (
        (access.wrote or not before.wrote)
        and access.low <= before.low
        and before.high <= access.high
        and work.ordered_after(earlier.lane, earlier.seq)
    )


def _report(earlier: Entry, later: Entry) -> Report:
    low = max(earlier.access.low, later.access.low)
    high = min(earlier.access.high, later.access.high)
    first, second = ("wrote" if e.access.wrote else "read" for e in (earlier, later))
    return Report(
        kind="stream_hazard",
        detail=f"{later.label} {second} {high - low} bytes at {low:#x} "
        f"that {earlier.label} {first}",
        other="no event, wait or synchronisation orders the two streams",
    )
