"""Races between CTAs of one launch, in global memory.

Accesses are kept while the launch runs and compared after it. Two CTAs may touch the same bytes,
one of them writing, only where something orders them: a CTA fences (membar, fence), then acts on
an address by an atomic; another CTA acts on that address later and so knows what was written
before the fence. Barriers carry both steps to all threads of a CTA. Without the fence nothing is
ordered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.cta_order import CtaOrder
from pyferrum_kv.virtual.lanes import Active
from pyferrum_kv.virtual.last_writers import Access, LastWriters

if TYPE_CHECKING:
    from pyferrum_kv.virtual.executor_base import ExecutorBase
    from pyferrum_kv.virtual.memory import Memory

_HAZARD = {
    **{"reads": "read", "read": "read", "writes": "write", "wrote": "write"},
    **{"changes": "atomic", "changed": "atomic"},
}
MOST_KEPT = 4_000_000
"""Elements of loads that are kept before they are thinned: 32 MiB."""
STRONG = frozenset(("volatile", "relaxed", "acquire", "release"))


class CtaRaces:
    """The accesses of one launch."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.loads: list[Access] = []
        self.stores: list[Access] = []
        self.atomics: list[Access] = []
        self.order = CtaOrder()
        self._kept = 0  # elements of loads

    # ---------------------------------------------------------- recording

    def load(
        self, x: ExecutorBase, a: Active, index: Any, size: int, site: int, order: str, nc: bool
    ) -> None:
        x.clock += 1
        strong = order in STRONG
        self.loads.append(Access(x, a.lanes, index, size, site, x.clock, strong, None, nc))
        self._kept += index.size
        if self._kept > MOST_KEPT:
            self._thin()
        if strong:
            self.order.acquire(x, a, index, size)

    def store(
        self, x: ExecutorBase, a: Active, index: Any, values: Any, size: int, site: int, order: str
    ) -> None:
        x.clock += 1
        strong = order in STRONG
        self.stores.append(Access(x, a.lanes, index, size, site, x.clock, strong, values))
        if strong:
            self.order.release(x, a, index, size, order == "release")

    def atomic(
        self, x: ExecutorBase, a: Active, index: Any, size: int, site: int, order: str
    ) -> None:
        x.clock += 1
        self.atomics.append(Access(x, a.lanes, index, size, site, x.clock, True))
        self.order.act(x, a, index, size, order in ("release", "acq_rel"))

    def _thin(self) -> None:
        """Keep one load of a place by an instruction for each CTA: loops repeat theirs."""
        groups: dict[tuple[int, int, bool, bool], list[Access]] = {}
        for load in self.loads:
            key = id(load.executor), load.site, load.strong, load.nc
            groups.setdefault(key, []).append(load)
        self.loads = [_merge(group) for group in groups.values()]
        # what cannot be thinned is kept; look again when as much has come anew
        self._kept = 0

    # ---------------------------------------------------------- comparing

    def finish(self, num_ctas: int) -> None:
        """Compare all accesses of the launch."""
        writes = sorted(self.stores + self.atomics, key=lambda access: access.time)
        if not writes or (num_ctas == 1 and not any(load.nc for load in self.loads)):
            return
        unit = min(4, *(access.size for access in (*writes, *self.loads)))
        self.last = LastWriters(writes, unit)
        for write in writes:
            self._check_write(write)
        for load in self.loads:
            self._check_load(load)

    def _check_write(self, write: Access) -> None:
        """Compare a store or an atomic with the writes before it, and enter it."""
        places, rows = self.last.places(write)
        before, after = self.last.enter(write, places)
        number = np.where(before >= 0, before, after)
        hit = np.flatnonzero((before >= 0) | (after >= 0))
        for earlier, at, their_row in self.last.by_access(number, hit):
            apart = self._ctas(earlier, their_row) != self._ctas(write, rows[at])
            if not np.count_nonzero(apart) or (earlier.strong and write.strong):
                continue
            if earlier.values is not None and write.values is not None:
                theirs = self.last.stored(earlier, number[at] - earlier.start)
                apart &= self.last.stored(write, at) != theirs
            clash = np.flatnonzero(apart)
            does, did = _doing(write)[0], _doing(earlier)[1]
            self._tell_if_unordered(
                earlier, their_row[clash], write, rows[at][clash], places[at][clash], does, did
            )

    def _check_load(self, load: Access) -> None:
        """Compare a load with the last write of what it read."""
        places, rows = self.last.places(load)
        number = self.last.find(places)
        hit = np.flatnonzero(number >= 0)
        for write, at, their_row in self.last.by_access(number, hit):
            if load.nc:
                self._tell_stale(load, int(rows[at[0]]), write, at.size)
                continue
            apart = np.flatnonzero(self._ctas(write, their_row) != self._ctas(load, rows[at]))
            if not apart.size or (load.strong and write.strong):
                continue
            at, their_row = at[apart], their_row[apart]
            does, did = _doing(write)
            if write.time < load.time:
                self._tell_if_unordered(write, their_row, load, rows[at], places[at], "reads", did)
            else:
                self._tell_if_unordered(load, rows[at], write, their_row, places[at], does, "read")

    @staticmethod
    def _ctas(access: Access, rows: Any) -> Any:
        lanes = access.executor.lanes
        return lanes.ctas[lanes.slot[access.lanes[rows]]]

    # ------------------------------------------------------------ telling

    def _tell_if_unordered(
        self,
        first: Access,
        first_rows: Any,
        second: Access,
        second_rows: Any,
        places: Any,
        does: str,
        did: str,
    ) -> None:
        if not len(first_rows) or second.executor.is_told("cta_race", second.site):
            return
        ordered = self.order.ordered(
            first,
            first.lanes[first_rows],
            second,
            second.lanes[second_rows],
            places * self.last.unit,
            self.atomics,
        )
        racing = np.flatnonzero(~ordered)
        if not racing.size:
            return
        i = racing[0]
        address = self.memory.base + int(places[i]) * self.last.unit
        other = first.executor.lanes.coordinates(int(first.lanes[first_rows[i]]))
        second.executor.tell(
            "cta_race",
            second.site,
            int(second.lanes[second_rows[i]]),
            f"{_HAZARD[does]}-after-{_HAZARD[did]} at {address:#x}: "
            f"a CTA {does} what another {did}, "
            "and nothing orders them",
            lanes=racing.size,
            other=f"{did} at {first.executor.where(first.site)} by block {other[0]}, "
            f"thread {other[1]}; {self.memory.describe(address)}",
        )

    def _tell_stale(self, load: Access, row: int, store: Access, lanes: int) -> None:
        load.executor.tell(
            "stale_read",
            load.site,
            int(load.lanes[row]),
            "ld.global.nc reads bytes that the same launch writes; the cache may hold old ones",
            lanes=lanes,
            other=f"written at {store.executor.where(store.site)}",
        )

    # ------------------------------------------------------------- ranges

    def ranges(self) -> list[tuple[int, int, bool]]:
        """(low, high, wrote) of what the launch touched, addresses, for the order of streams."""
        found: list[tuple[int, int, bool]] = []
        for wrote, accesses in ((True, self.stores + self.atomics), (False, self.loads)):
            by_size: dict[int, list[Any]] = {}
            for access in accesses:
                by_size.setdefault(access.size, []).append(access.index.reshape(-1))
            for size, parts in by_size.items():
                index = _distinct(np.concatenate(parts))
                cuts = np.flatnonzero(np.diff(index) > 1)
                lows, highs = index[np.r_[0, cuts + 1]], index[np.r_[cuts, index.size - 1]]
                for low, high in zip(lows.tolist(), highs.tolist(), strict=False):
                    base = self.memory.base
                    found.append((base + low * size, base + (high + 1) * size, wrote))
        return found


def _merge(loads: list[Access]) -> Access:
    """One access for many of one instruction and chunk, at the time of the first."""
    first = loads[0]
    lanes = np.concatenate([load.lanes for load in loads])
    index = np.concatenate([np.broadcast_to(load.index, load.lanes.shape) for load in loads])
    chunk = first.executor.lanes
    _, kept = np.unique(index * chunk.num_ctas + chunk.slot[lanes], return_index=True)
    return replace(first, lanes=lanes[kept], index=index[kept])


def _doing(write: Access) -> tuple[str, str]:
    return ("changes", "changed") if write.values is None else ("writes", "wrote")


def _distinct(index: Any) -> Any:
    """Like np.unique, without sorting where the values lie together."""
    low, high = int(index.min()), int(index.max())
    if high - low > 64 * index.size:
        return np.unique(index)
    seen = np.zeros(high - low + 1, bool)
    seen[index - low] = True
    return np.flatnonzero(seen) + low
