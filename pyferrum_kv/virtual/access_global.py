"""Global memory as kernels see it: loads, stores, generic and local addresses, parameters.

An access is judged by one gather of the bytes' states. A launch's accesses are kept by reference,
for the search for races between CTAs after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyferrum_kv.virtual.executor_base import ExecutorBase, KernelFault, Launch
from pyferrum_kv.virtual.lanes import Active, Indices, Lanes
from pyferrum_kv.virtual.memory import ACCESS_TYPES, ALLOCATED, READY
from pyferrum_kv.virtual.windows import LOCAL_WINDOW, SHARED_WINDOW, WINDOW_BYTES

U8 = np.uint64
SHIFT = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4}
STATE_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: U8, 16: U8}


def _repeat(state: int, size: int) -> Any:
    """A state for every byte of an access, in the type that states are compared in."""
    kind = STATE_TYPES[size]
    return kind(int.from_bytes(bytes([state]) * np.dtype(kind).itemsize, "little"))


ALL_READY = {size: _repeat(READY, size) for size in SHIFT}
ALL_ALLOCATED = {size: _repeat(ALLOCATED, size) for size in SHIFT}
READY_ACCESS = {
    size: np.frombuffer(bytes([READY]) * size, kind)[0] for size, kind in ACCESS_TYPES.items()
}


class GlobalAccess(ExecutorBase):
    """ld, st of .global, .local, .param and generic addresses."""

    def __init__(self, launch: Launch, lanes: Lanes) -> None:
        super().__init__(launch, lanes)
        self.base = U8(self.memory.base)
        self._local: Any = None

    # ------------------------------------------------------------ global

    def ld_global(
        self, active: Active, address: Any, size: int, site: int, order: str, nc: bool
    ) -> Any:
        """Raw accesses of `size` bytes: [rows], or a scalar for a scalar address."""
        at, index = self._global_index(active, address, size, site)
        state = self.memory.state_views[size].take(index, mode="clip").view(STATE_TYPES[size])
        if np.count_nonzero(state != ALL_READY[size]):
            self._judge_load(active, at, state, size, site)
        if self.races is not None:
            self.races.load(self, active, index, size, site, order, nc)
        self.counters.global_access(active, index, size, site)
        values = self.memory.data_views[size].take(index, mode="clip")
        return active.spread(values) if address.ndim else values[0]

    def st_global(
        self, active: Active, address: Any, value: Any, size: int, site: int, order: str
    ) -> None:
        """`value`: [rows] of unsigned, or [rows, elements] for a vector."""
        at, index = self._global_index(active, address, size, site)
        state = self.memory.state_views[size].take(index, mode="clip").view(STATE_TYPES[size])
        if np.count_nonzero(state != ALL_READY[size]):
            needed = ALL_ALLOCATED[size]
            if np.count_nonzero((state & needed) != needed):
                self._judge_place(active, at, state, size, site)
        values = self.accesses(active, value, size)
        if index.size != values.size:  # one address, or one value, for all
            index, values = np.broadcast_arrays(index, values)
        if self.races is not None:
            self.races.store(self, active, index, values, size, site, order)
        self.counters.global_access(active, index, size, site)
        self.memory.data_views[size][index] = values
        self.memory.state_views[size][index] = READY_ACCESS[size]

    def check_readable(self, active: Active, address: Any, size: int, site: int) -> None:
        """What a load would find, without loading."""
        at, index = self._global_index(active, address, size, site)
        state = self.memory.state_views[size].take(index, mode="clip").view(STATE_TYPES[size])
        if np.count_nonzero(state != ALL_READY[size]):
            self._judge_load(active, at, state, size, site)

    @staticmethod
    def accesses(active: Active, value: Any, size: int) -> Any:
        """[active lanes] of the access type."""
        picked = active.active(value)
        if picked.ndim < 2:
            return np.atleast_1d(picked)
        return np.ascontiguousarray(picked).view(ACCESS_TYPES[size]).reshape(-1)

    def _global_index(
        self, active: Active, address: Any, size: int, site: int
    ) -> tuple[Any, Indices]:
        """(offset into the arena, index into its view of the access size) of active lanes."""
        at = np.atleast_1d(active.active(address)) - self.base
        if size > 1 and np.count_nonzero(at & U8(size - 1)):
            self._misaligned(active, at, size, site)
        return at, (at >> U8(SHIFT[size])).view(np.intp)

    def _misaligned(self, active: Active, at: Any, size: int, site: int) -> None:
        bad = np.flatnonzero(at & U8(size - 1))
        address = int(at[bad[0]]) + int(self.base) & 0xFFFFFFFFFFFFFFFF
        detail = f"access of {size} bytes at {address:#x}, which is no multiple of {size}"
        lane = int(active.lanes[bad[0]])
        raise KernelFault(self.report("misaligned", site, lane, detail, lanes=bad.size))

    def _judge_place(self, active: Active, at: Any, state: Any, size: int, site: int) -> None:
        """Fault unless every byte is allocated."""
        by_byte = state.view(np.uint8).reshape(-1, size)
        outside = at >= U8(self.memory.capacity_bytes)
        bad = np.flatnonzero(((by_byte & ALLOCATED) == 0).any(1) | outside)
        if not bad.size:
            return
        address = (int(at[bad[0]]) + int(self.base)) & 0xFFFFFFFFFFFFFFFF
        freed = self.memory.is_freed(address)
        report = self.report(
            "use_after_free" if freed else "illegal_address",
            site,
            int(active.lanes[bad[0]]),
            f"access of {size} bytes at {address:#x}",
            lanes=bad.size,
            other=self.memory.describe(address),
        )
        raise KernelFault(report, "illegal_address")

    def _judge_load(self, active: Active, at: Any, state: Any, size: int, site: int) -> None:
        self._judge_place(active, at, state, size, site)
        if self.is_told("uninitialized", site):
            return
        unwritten = state.view(np.uint8).reshape(-1, size) != READY
        bad = np.flatnonzero(unwritten.any(1))
        address = int(at[bad[0]]) + int(self.base)
        self.tell(
            "uninitialized",
            site,
            int(active.lanes[bad[0]]),
            f"read of {size} bytes at {address:#x}, global, that nothing has written",
            lanes=bad.size,
            other=self.memory.describe(address),
        )

    # ----------------------------------------------------- other spaces

    def ld_const(self, active: Active, address: Any, size: int, site: int) -> Any:
        """Constants lie in the arena beside everything else."""
        return self.ld_global(active, address, size, site, "weak", False)

    def ld_param(self, active: Active, address: Any, size: int, site: int) -> Any:
        """A parameter at a computed offset."""
        block = np.frombuffer(self.parameters.block.ljust(16, b"\0"), np.uint8)
        at = np.atleast_1d(active.active(address)).astype(np.intp)
        bad = np.flatnonzero((at < 0) | (at + size > len(self.parameters.block)))
        if bad.size:
            detail = f"parameter access of {size} bytes at offset {int(at[bad[0]])}"
            lane = int(active.lanes[bad[0]])
            raise KernelFault(self.report("illegal_address", site, lane, detail, lanes=bad.size))
        values = block[at[:, None] + np.arange(size)].view(ACCESS_TYPES[size]).reshape(-1)
        return active.spread(values) if address.ndim else values[0]

    def _local_index(self, active: Active, address: Any, size: int, site: int) -> Indices:
        if self._local is None:
            self._local_stride = -(-self.launch.kernel.local_bytes // 16) * 16
            data = np.zeros(self.lanes.total * self._local_stride, np.uint8)
            self._local = {n: data.view(kind) for n, kind in ACCESS_TYPES.items()}
        at = active.each(address).astype(np.int64)
        bad = np.flatnonzero((at < 0) | (at > self.launch.kernel.local_bytes - size))
        if bad.size:
            detail = f"access of {size} bytes at local offset {int(at[bad[0]]):#x}"
            other = f"the thread has {self.launch.kernel.local_bytes} bytes of local memory"
            lane = int(active.lanes[bad[0]])
            raise KernelFault(
                self.report("illegal_address", site, lane, detail, lanes=bad.size, other=other)
            )
        crooked = np.flatnonzero(at & (size - 1))
        if crooked.size:
            detail = f"access of {size} bytes at local offset {int(at[crooked[0]]):#x}"
            lane = int(active.lanes[crooked[0]])
            raise KernelFault(self.report("misaligned", site, lane, detail, lanes=crooked.size))
        index: Indices = (active.lanes * self._local_stride + at) >> SHIFT[size]
        return index

    def ld_local(self, active: Active, address: Any, size: int, site: int) -> Any:
        index = self._local_index(active, address, size, site)
        return active.spread(self._local[size].take(index))

    def st_local(self, active: Active, address: Any, value: Any, size: int, site: int) -> None:
        index = self._local_index(active, address, size, site)
        self._local[size][index] = self.accesses(active, value, size)

    # ----------------------------------------------------------- generic

    def by_window(self, active: Active, address: Any) -> list[tuple[str, Active, Any]]:
        """Split an access by the space its generic addresses point to."""
        at = active.each(address)
        shared = at - U8(SHARED_WINDOW) < U8(WINDOW_BYTES)
        local = at - U8(LOCAL_WINDOW) < U8(WINDOW_BYTES)
        parts: list[tuple[str, Active, Any]] = []
        for space, inside, window in (
            ("shared", shared, SHARED_WINDOW),
            ("local", local, LOCAL_WINDOW),
            ("global", ~(shared | local), 0),
        ):
            if np.count_nonzero(inside):
                mask = np.zeros(self.lanes.total, bool)
                mask[active.lanes[inside]] = True
                whole = np.zeros(self.lanes.total, U8)
                whole[active.lanes] = at - U8(window)
                part = self.lanes.subset(mask)
                parts.append((space, part, part.gather(whole) if part.is_compact else whole))
        return parts

    def rows_for(self, active: Active, part: Active, values: Any) -> Any:
        """Rows of `part`, a subset of `active`, from rows of `active`."""
        if values is None or values.ndim == 0:
            return values
        whole = np.zeros(self.lanes.total, values.dtype)
        whole[active.lanes] = active.each(values)
        return part.gather(whole) if part.is_compact else whole

    def from_part(self, active: Active, part: Active, values: Any, into: Any) -> None:
        """Copy rows of a part into rows of all lanes."""
        into[part.lanes] = part.each(values)

    def ld_generic(
        self, active: Active, address: Any, size: int, site: int, order: str, nc: bool
    ) -> Any:
        whole = np.zeros(self.lanes.total, ACCESS_TYPES[size])
        for space, part, at in self.by_window(active, address):
            if space == "global":
                values = self.ld_global(part, at, size, site, order, nc)
            else:
                values = getattr(self, f"ld_{space}")(part, at, size, site)
            self.from_part(active, part, values, whole)
        return active.gather(whole) if active.is_compact else whole

    def st_generic(
        self, active: Active, address: Any, value: Any, size: int, site: int, order: str
    ) -> None:
        given = self.accesses(active, value, size)
        whole = np.zeros(self.lanes.total, given.dtype)
        whole[active.lanes] = given
        for space, part, at in self.by_window(active, address):
            rows = part.gather(whole) if part.is_compact else whole
            if space == "global":
                self.st_global(part, at, rows, size, site, order)
            else:
                getattr(self, f"st_{space}")(part, at, rows, size, site)
