"""cp.async: bytes leave global memory at issue and reach shared memory at the wait of their thread.

Until then they are in flight: whoever reads or writes their place, the thread itself included, is
reported. Groups are counted for each thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyferrum_kv.virtual.executor_base import Launch
from pyferrum_kv.virtual.lanes import Active, Indices, Lanes
from pyferrum_kv.virtual.warp import WarpOperations


@dataclass(slots=True)
class Flight:
    """Copies of one instruction that have not landed."""

    index: Indices  # into shared memory's view of the access size, [copies]
    lanes: Indices
    groups: Any  # the group each belongs to, int64 [copies]
    values: Any
    size: int
    site: int
    active: Active


class AsyncCopies(WarpOperations):
    """cp.async, commit_group, wait_group, wait_all."""

    def __init__(self, launch: Launch, lanes: Lanes) -> None:
        super().__init__(launch, lanes)
        self.flights: list[Flight] = []
        self.committed = np.zeros(lanes.total, np.int64)  # groups that a lane has closed

    def copy_async(
        self, active: Active, dst: Any, src: Any, size: int, source_bytes: Any, site: int
    ) -> None:
        """Start copies of `size` bytes; what lies past `source_bytes` is zero and not read."""
        index = self.shared_index(active, dst, size, site)
        values = self._fetch(active, src, size, source_bytes, site)
        lanes = active.lanes
        if self.shared_races is not None:
            self.shared_races.take_off(index, lanes, size, site)
        self.flights.append(Flight(index, lanes, self.committed[lanes], values, size, site, active))

    def _fetch(self, active: Active, src: Any, size: int, source_bytes: Any, site: int) -> Any:
        if source_bytes is None:
            return np.broadcast_to(
                active.active(self.ld_global(active, src, size, site, "weak", False)),
                (active.count,),
            )
        counts = active.each(source_bytes)
        raw = np.zeros((active.count, size), np.uint8)
        whole_address = np.zeros(self.lanes.total, np.uint64)
        whole_address[active.lanes] = active.each(src)
        for count in np.unique(counts):
            if count == 0:
                continue
            inside = counts == count
            mask = np.zeros(self.lanes.total, bool)
            mask[active.lanes[inside]] = True
            part = self.lanes.subset(mask)
            at = part.gather(whole_address) if part.is_compact else whole_address
            for byte in range(min(int(count), size)):
                got = self.ld_global(part, at + np.uint64(byte), 1, site, "weak", False)
                raw[inside, byte] = part.active(got)
        kind = {4: np.uint32, 8: np.uint64, 16: np.complex128}[size]
        return raw.view(kind).reshape(-1)

    def copy_commit(self, active: Active) -> None:
        self.committed[active.lanes] += 1

    def copy_wait(self, active: Active, pending: int, site: int) -> None:
        """Land every group of these lanes but the newest `pending`; -1: what is uncommitted too."""
        if not self.flights:
            return
        newest = np.full(self.lanes.total, -1, np.int64)
        if pending < 0:
            newest[active.lanes] = np.iinfo(np.int64).max
        else:
            newest[active.lanes] = self.committed[active.lanes] - pending - 1
        kept: list[Flight] = []
        for flight in self.flights:
            lands = flight.groups <= newest[flight.lanes]
            if lands.any():
                self._land(flight, lands)
            if not lands.all():
                stays = ~lands
                kept.append(
                    Flight(
                        flight.index[stays],
                        flight.lanes[stays],
                        flight.groups[stays],
                        flight.values[stays],
                        flight.size,
                        flight.site,
                        flight.active,
                    )
                )
        self.flights = kept

    def _land(self, flight: Flight, lands: Any) -> None:
        index, lanes = flight.index[lands], flight.lanes[lands]
        if self.shared_races is not None:
            self.shared_races.land(index, flight.size)
        values = flight.values[lands]
        self.shared_write(flight.active, index, lanes, values, flight.size, flight.site)
