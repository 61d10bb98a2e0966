"""Shared memory: a block of bytes for each CTA; loads, stores and matrix accesses."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyferrum_kv.virtual.access_global import (
    ALL_READY,
    READY_ACCESS,
    SHIFT,
    STATE_TYPES,
    GlobalAccess,
)
from pyferrum_kv.virtual.executor_base import KernelFault, Launch
from pyferrum_kv.virtual.lanes import WARP, Active, Indices, Lanes
from pyferrum_kv.virtual.memory import ACCESS_TYPES, READY
from pyferrum_kv.virtual.sanitizer import SharedRaces


class SharedAccess(GlobalAccess):
    """ld, st of .shared, ldmatrix and stmatrix."""

    def __init__(self, launch: Launch, lanes: Lanes) -> None:
        super().__init__(launch, lanes)
        self.shared_stride = -(-launch.shared_bytes // 16) * 16
        num_bytes = max(16, lanes.num_ctas * self.shared_stride)
        data = np.zeros(num_bytes, np.uint8)
        self.shared = {n: data.view(kind) for n, kind in ACCESS_TYPES.items()}
        self.written: dict[int, Any] = {}
        self.shared_races: SharedRaces | None = None
        if launch.sanitize and launch.shared_bytes:
            state = np.zeros(num_bytes, np.uint8)
            self.written = {n: state.view(kind) for n, kind in ACCESS_TYPES.items()}
            self.shared_races = SharedRaces(self, num_bytes, launch.granule_bytes)

    def shared_index(self, active: Active, address: Any, size: int, site: int) -> Indices:
        """[active lanes]: index into the view of the access size; faults are raised."""
        at = active.each(address).astype(np.int64)
        outside = at.view(np.uint64) > np.uint64(max(0, self.launch.shared_bytes - size))
        if np.count_nonzero(outside) or self.launch.shared_bytes < size:
            bad = np.flatnonzero(outside) if outside.any() else np.arange(at.size)
            detail = f"access of {size} bytes at shared offset {int(at[bad[0]]):#x}"
            static = self.launch.shared_bytes - self.launch.dynamic_shared_bytes
            other = (
                f"the CTA has {self.launch.shared_bytes} bytes of shared memory: {static} static, "
                f"{self.launch.dynamic_shared_bytes} dynamic"
            )
            lane = int(active.lanes[bad[0]])
            raise KernelFault(
                self.report("illegal_address", site, lane, detail, lanes=bad.size, other=other)
            )
        if size > 1:
            crooked = at & (size - 1)
            if np.count_nonzero(crooked):
                bad = np.flatnonzero(crooked)
                detail = f"access of {size} bytes at shared offset {int(at[bad[0]]):#x}"
                lane = int(active.lanes[bad[0]])
                raise KernelFault(self.report("misaligned", site, lane, detail, lanes=bad.size))
        if self.lanes.num_ctas > 1:
            at = at + active.slots * self.shared_stride
        index: Indices = at >> SHIFT[size]
        return index

    def ld_shared(self, active: Active, address: Any, size: int, site: int) -> Any:
        """Raw accesses of `size` bytes, [rows]."""
        index = self.shared_index(active, address, size, site)
        return active.spread(self.shared_read(active, index, active.lanes, size, site))

    def shared_read(
        self, active: Active, index: Indices, lanes: Indices, size: int, site: int
    ) -> Any:
        """Read by index, on behalf of `lanes`."""
        if self.shared_races is not None:
            self.check_written(index, lanes, size, site)
            self.shared_races.read(index, lanes, size, site)
        self.counters.shared_access(active, index, lanes, size, site, self.shared_stride)
        return self.shared[size].take(index)

    def st_shared(self, active: Active, address: Any, value: Any, size: int, site: int) -> None:
        index = self.shared_index(active, address, size, site)
        values = self.accesses(active, value, size)
        self.shared_write(active, index, active.lanes, values, size, site)

    def shared_write(
        self, active: Active, index: Indices, lanes: Indices, values: Any, size: int, site: int
    ) -> None:
        """Write by index, on behalf of `lanes`."""
        if self.shared_races is not None:
            self.shared_races.write(index, lanes, size, site, values)
            self.written[size][index] = READY_ACCESS[size]
        self.counters.shared_access(active, index, lanes, size, site, self.shared_stride)
        self.shared[size][index] = values

    def check_written(self, index: Indices, lanes: Indices, size: int, site: int) -> None:
        """A finding where a read meets bytes that nothing has written."""
        state = self.written[size].take(index).view(STATE_TYPES[size])
        if not np.count_nonzero(state != ALL_READY[size]) or self.is_told("uninitialized", site):
            return
        bad = np.flatnonzero((state.view(np.uint8).reshape(-1, size) != READY).any(1))
        lane = int(lanes[bad[0]])
        place = self.shared_place(int(index[bad[0]]) * size)
        detail = f"read of {size} bytes at {place} that nothing has written"
        self.tell("uninitialized", site, lane, detail, lanes=bad.size)

    def shared_place(self, at: int) -> str:
        """Where a byte of the chunk's shared memory lies, in words: "shared s_scores+0x40"."""
        offset = at % self.shared_stride
        kernel = self.launch.kernel
        best = ("", -1)
        for name, variable in kernel.variables.items():
            start = kernel.offsets[name]
            if variable.space == "shared" and best[1] <= start <= offset:
                best = (name, start)
        return f"shared {best[0]}+{offset - best[1]:#x}" if best[0] else f"shared {offset:#x}"

    # ---------------------------------------------------- matrix accesses

    def ldmatrix(
        self, active: Active, address: Any, count: int, trans: bool, site: int
    ) -> list[Any]:
        """`count` 8x8 matrices of b16: lane i of a warp gives the address of row i."""
        index, lanes, warps = self._matrix_rows(active, address, count, site)
        raw = self.shared_read(active, index, lanes, 16, site)
        halves = raw.view(np.uint16).reshape(warps, count, 8, 8)
        if trans:
            halves = halves.swapaxes(2, 3)
        words = np.ascontiguousarray(halves).view(np.uint32).reshape(warps, count, WARP)
        return [active.from_warps(np.ascontiguousarray(words[:, i])) for i in range(count)]

    def stmatrix(
        self, active: Active, address: Any, values: tuple[Any, ...], trans: bool, site: int
    ) -> None:
        """The reverse of ldmatrix."""
        index, lanes, warps = self._matrix_rows(active, address, len(values), site)
        words = np.stack([active.to_warps(v) for v in values], 1)
        halves = np.ascontiguousarray(words).view(np.uint16).reshape(warps, len(values), 8, 8)
        if trans:
            halves = halves.swapaxes(2, 3)
        raw = np.ascontiguousarray(halves).reshape(-1).view(np.complex128)
        self.shared_write(active, index, lanes, raw, 16, site)

    def _matrix_rows(
        self, active: Active, address: Any, count: int, site: int
    ) -> tuple[Indices, Indices, int]:
        """(index of each row, the lane that gave it, number of warps)."""
        if count == 4 and active.is_whole:
            return self.shared_index(active, address, 16, site), active.lanes, active.num_warps
        self.whole_warps(active, site)
        places = np.zeros(active.n, np.int64) + address.astype(np.int64)
        at = active.to_warps(places)[:, : 8 * count].reshape(-1)
        present = active.present[:, : 8 * count].reshape(-1)
        lane_ids = active.to_warps(_row_lanes(active))[:, : 8 * count].reshape(-1)
        givers = np.zeros(self.lanes.total, bool)
        givers[lane_ids[present]] = True
        subset = self.lanes.subset(givers)
        whole = np.zeros(self.lanes.total, np.int64)
        whole[lane_ids[present]] = at[present]
        rows = subset.gather(whole) if subset.is_compact else whole
        found = self.shared_index(subset, rows, 16, site)
        index = np.zeros(present.size, np.intp)
        index[present] = found
        return index, np.where(present, lane_ids, lane_ids.max()), active.num_warps

    def whole_warps(self, active: Active, site: int) -> None:
        """A finding unless every warp that runs the collective is complete."""
        if active.is_whole:
            return
        missing = np.argwhere(~active.present)[0]
        lane = active.lane_of(int(missing[0]), int(np.flatnonzero(active.present[missing[0]])[0]))
        detail = f"lane {int(missing[1])} of the warp does not take part; all 32 must"
        self.tell("warp_sync", site, lane, detail, lanes=active.count)


def _row_lanes(active: Active) -> Indices:
    """[rows]: the lane that a row of this subset's registers belongs to."""
    return active.lanes if active.is_compact else np.arange(active.all.total)
