"""Accesses to global memory, and who wrote each place last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.lanes import Indices

if TYPE_CHECKING:
    from pyferrum_kv.virtual.executor_base import ExecutorBase

PAGE = 4096


@dataclass(slots=True)
class Access:
    """One executed instruction; index (one for all, or one a lane) is in units of its size."""

    executor: ExecutorBase
    lanes: Indices  # that took part
    index: Indices
    size: int
    site: int
    time: int
    strong: bool
    values: Any = None  # of a store; None for a load or an atomic
    nc: bool = False
    start: int = 0  # number of its first unit among all units written


class LastWriters:
    """The last write of every unit (1, 2 or 4 bytes) that a launch writes.

    The units written to are spread over the arena; pages of them are kept. A write's units are
    numbered from its `start` on, so one number names a write and a row of it.
    """

    def __init__(self, writes: list[Access], unit: int) -> None:
        self.writes, self.unit = writes, unit
        places = [self.places(write)[0] for write in writes]
        used = np.unique(np.concatenate([np.unique(p // PAGE) for p in places]))
        self._slot = np.full(int(used[-1]) + 2, -1, np.int64)  # page -> where it is kept
        self._slot[used] = np.arange(used.size)
        self._number = np.full(used.size * PAGE, -1, np.int64)
        sizes = np.array([p.size for p in places])
        self._starts = np.cumsum(sizes) - sizes
        for write, start in zip(writes, self._starts.tolist(), strict=True):
            write.start = start

    def places(self, access: Access) -> tuple[Any, Any]:
        """(unit, row among the lanes) of every unit that an access touches."""
        rows = np.arange(access.lanes.size)
        index = np.broadcast_to(access.index, rows.shape)
        count = access.size // self.unit
        if count <= 1:
            return index, rows
        units = index[:, None] * count + np.arange(count)
        return units.reshape(-1), np.repeat(rows, count)

    def _at(self, places: Any) -> Any:
        """Position of each place in the pages, -1 where nothing was written near."""
        page = np.minimum(places // PAGE, self._slot.size - 1)
        slot = self._slot[page]
        return np.where(slot >= 0, slot * PAGE + places % PAGE, -1)

    def enter(self, write: Access, places: Any) -> tuple[Any, Any]:
        """Enter a write; numbers of who wrote before, and of who wrote in the same instruction."""
        at = self._at(places)
        mine = write.start + np.arange(places.size)
        before = self._number[at]
        self._number[at] = mine
        after = self._number[at]
        return before, np.where(after != mine, after, -1)

    def find(self, places: Any) -> Any:
        """Number of the last write of each place, -1 for none."""
        at = self._at(places)
        return np.where(at >= 0, self._number[at], -1)

    def by_access(self, numbers: Any, hit: Any) -> Iterator[tuple[Access, Any, Any]]:
        """(write, the positions in `numbers` that name it, its row for each of them)."""
        if not hit.size:
            return
        which = np.searchsorted(self._starts, numbers[hit], side="right") - 1
        for i in np.unique(which):
            write = self.writes[i]
            at = hit[which == i]
            yield write, at, (numbers[at] - write.start) // max(1, write.size // self.unit)

    def stored(self, write: Access, units: Any) -> Any:
        """The bytes of a store's units, one integer each."""
        values = np.ascontiguousarray(np.broadcast_to(write.values, write.lanes.shape))
        return values.view(np.dtype(f"u{self.unit}"))[units]
