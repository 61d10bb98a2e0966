"""Races between CTAs of one launch, in global memory.

Accesses are kept while the launch runs and compared after it. Two CTAs may touch the same bytes,
one of them writing, only where something orders them: a CTA fences (membar, fence), then acts on
an address by an atomic; another CTA acts on that address later and so knows what was written
before the fence. Barriers carry both steps to all threads of a CTA. Without the fence nothing is
ordered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.cta_order import CtaOrder
from pyferrum_kv.virtual.lanes import Active, Indices

if TYPE_CHECKING:
    from pyferrum_kv.virtual.executor_base import ExecutorBase
    from pyferrum_kv.virtual.memory import Memory

STRONG = frozenset(("volatile", "relaxed", "acquire", "release"))


@dataclass(slots=True)
class Access:
    """One executed instruction; index is into the arena's view of the access size."""

    executor: ExecutorBase
    active: Active
    index: Indices
    size: int
    site: int
    time: int
    strong: bool
    values: Any = None  # of a store
    nc: bool = False
    start: int = 0  # number of its first unit among all units written


class CtaRaces:
    """The accesses of one launch."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.loads: list[Access] = []
        self.stores: list[Access] = []
        self.atomics: list[Access] = []
        self.order = CtaOrder()

    # ---------------------------------------------------------- recording

    def load(
        self, x: ExecutorBase, a: Active, index: Any, size: int, site: int, order: str, nc: bool
    ) -> None:
        x.clock += 1
        strong = order in STRONG
        self.loads.append(Access(x, a, index, size, site, x.clock, strong, None, nc))
        if strong:
            self.order.acquire(x, a, index, size)

    def store(
        self, x: ExecutorBase, a: Active, index: Any, values: Any, size: int, site: int, order: str
    ) -> None:
        x.clock += 1
        strong = order in STRONG
        self.stores.append(Access(x, a, index, size, site, x.clock, strong, values))
        if strong:
            self.order.release(x, a, index, size, order == "release")

    def atomic(
        self, x: ExecutorBase, a: Active, index: Any, size: int, site: int, order: str
    ) -> None:
        x.clock += 1
        self.atomics.append(Access(x, a, index, size, site, x.clock, True))
        self.order.act(x, a, index, size, order in ("release", "acq_rel"))

    # ---------------------------------------------------------- comparing

    def finish(self, num_ctas: int) -> None:
        """Compare all accesses of the launch."""
        if (num_ctas == 1 and not any(load.nc for load in self.loads)) or not self.stores:
            return
        self.unit = min(min(e.size for e in (*self.stores, *self.loads, *self.atomics)), 4)
        first, last = self._extent(self.stores)
        self.owner = np.full(last - first, -1, np.int64)
        self.first = first
        number = 0
        for store in self.stores:
            store.start = number
            number += self._enter(store)
        self.starts = np.array([s.start for s in self.stores])
        for load in self.loads:
            self._check(load, "reads")
        for atomic in self.atomics:
            self._check(atomic, "changes")

    def _extent(self, stores: list[Access]) -> tuple[int, int]:
        low = min(int(s.index.min()) * s.size for s in stores)
        high = max((int(s.index.max()) + 1) * s.size for s in stores)
        return low // self.unit, -(-high // self.unit)

    def _units(self, access: Access) -> tuple[Any, Any]:
        """(unit - first, row among the active lanes) of every unit that an access touches."""
        rows = np.arange(access.active.count)
        index = np.broadcast_to(access.index, rows.shape)
        count = access.size // self.unit
        if count <= 1:
            return index - self.first, rows
        units = index[:, None] * count + (np.arange(count) - self.first)
        return units.reshape(-1), np.repeat(rows, count)

    def _enter(self, store: Access) -> int:
        """Enter a store's units; returns how many."""
        units, rows = self._units(store)
        mine = store.start + np.arange(units.size)
        before = self.owner[units]
        self.owner[units] = mine
        after = self.owner[units]
        hit = np.flatnonzero((before >= 0) | (after != mine))
        if hit.size:
            other = np.where(before[hit] >= 0, before[hit], after[hit])
            same_launch = np.where(before[hit] >= 0, 0, 1)
            self._judge_stores(store, units[hit], rows[hit], hit, other, same_launch)
        return int(units.size)

    def _judge_stores(
        self, store: Access, units: Any, rows: Any, position: Any, other: Any, same: Any
    ) -> None:
        starts = np.array([s.start for s in self.stores if s.start <= store.start])
        which = np.searchsorted(starts, other, side="right") - 1
        lane = store.active.lanes[rows]
        mine = store.executor.lanes.ctas[store.executor.lanes.slot[lane]]
        for i in np.unique(which):
            earlier = self.stores[i]
            at = np.flatnonzero(which == i)
            _, earlier_rows = self._units(earlier)
            theirs_row = earlier_rows[other[at] - earlier.start]
            theirs = earlier.executor.lanes
            their_lane = earlier.active.lanes[theirs_row]
            their_cta = theirs.ctas[theirs.slot[their_lane]]
            differ = their_cta != mine[at]
            if not differ.any() or (earlier.strong and store.strong):
                continue
            at, theirs_row = at[differ], theirs_row[differ]
            unequal = self._bytes(store, position[at]) != self._bytes(
                earlier, other[at] - earlier.start
            )
            clash = np.flatnonzero(unequal)
            self._tell_if_unordered(
                earlier, theirs_row[clash], store, rows[at][clash], units[at][clash],
                "write-after-write", "writes", "wrote",
            )  # fmt: skip

    def _bytes(self, store: Access, position: Any) -> Any:
        """The stored bytes of a store's units, one integer each."""
        values = np.ascontiguousarray(np.broadcast_to(store.values, (store.active.count,)))
        return values.view(np.dtype(f"u{self.unit}"))[position]

    def _check(self, access: Access, does: str) -> None:
        """Compare a load or an atomic with the stores."""
        units, rows = self._units(access)
        inside = (units >= 0) & (units < self.owner.size)
        if not np.count_nonzero(inside):
            return
        found = np.where(inside, self.owner[np.where(inside, units, 0)], -1)
        hit = np.flatnonzero(found >= 0)
        if not hit.size:
            return
        which = np.searchsorted(self.starts, found[hit], side="right") - 1
        lanes = access.executor.lanes
        mine = lanes.ctas[lanes.slot[access.active.lanes[rows[hit]]]]
        for i in np.unique(which):
            store = self.stores[i]
            at = np.flatnonzero(which == i)
            _, store_rows = self._units(store)
            their_row = store_rows[found[hit[at]] - store.start]
            theirs = store.executor.lanes
            their_cta = theirs.ctas[theirs.slot[store.active.lanes[their_row]]]
            if access.nc:
                self._tell_stale(access, int(rows[hit[at[0]]]), store, at.size)
                continue
            apart = np.flatnonzero(their_cta != mine[at])
            if not apart.size or (access.strong and store.strong):
                continue
            at, their_row = hit[at[apart]], their_row[apart]
            if store.time < access.time:
                hazard = "read-after-write" if does == "reads" else "atomic-after-write"
                self._tell_if_unordered(
                    store, their_row, access, rows[at], units[at], hazard, does, "wrote"
                )
            else:
                did = "read" if does == "reads" else "changed"
                hazard = f"write-after-{'read' if does == 'reads' else 'atomic'}"
                self._tell_if_unordered(
                    access, rows[at], store, their_row, units[at], hazard, "writes", did
                )

    # ------------------------------------------------------------ telling

    def _tell_if_unordered(
        self,
        first: Access,
        first_rows: Any,
        second: Access,
        second_rows: Any,
        units: Any,
        hazard: str,
        does: str,
        did: str,
    ) -> None:
        if not len(first_rows) or second.executor.is_told("cta_race", second.site):
            return
        ordered = self.order.ordered(
            first,
            first.active.lanes[first_rows],
            second,
            second.active.lanes[second_rows],
            (units + self.first) * self.unit,
            self.atomics,
        )
        racing = np.flatnonzero(~ordered)
        if not racing.size:
            return
        i = racing[0]
        address = self.memory.base + (int(units[i]) + self.first) * self.unit
        other = first.executor.lanes.coordinates(int(first.active.lanes[first_rows[i]]))
        second.executor.tell(
            "cta_race",
            second.site,
            int(second.active.lanes[second_rows[i]]),
            f"{hazard} at {address:#x}: a CTA {does} what another {did}, and nothing orders them",
            lanes=racing.size,
            other=f"{did} at {first.executor.where(first.site)} by block {other[0]}, "
            f"thread {other[1]}; {self.memory.describe(address)}",
        )

    def _tell_stale(self, load: Access, row: int, store: Access, lanes: int) -> None:
        load.executor.tell(
            "stale_read",
            load.site,
            int(load.active.lanes[row]),
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


def _distinct(index: Any) -> Any:
    """Like np.unique, without sorting where the values lie together."""
    low, high = int(index.min()), int(index.max())
    if high - low > 64 * index.size:
        return np.unique(index)
    seen = np.zeros(high - low + 1, bool)
    seen[index - low] = True
    return np.flatnonzero(seen) + low
