"""The lanes of a chunk of CTAs, and subsets of them.

All threads of the chunk's CTAs lie in one vector: CTA after CTA, each padded to whole warps. A
register is an array over these lanes. `Active` is the subset that runs a segment, in one of three
modes:

full      every lane runs: registers are used as they are
masked    many run: registers are used as they are, results of the others are discarded afterwards
compact   few run: registers are gathered first, results scattered afterwards
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

WARP = 32
COMPACT_BELOW = 0.25
"""Share of active lanes below which gathering them pays."""
KEPT_SUBSETS = 512

Dim = tuple[int, int, int]


class Lanes:
    """Who the lanes of a chunk are.

    grid, block: (x, y, z)      first, count: the chunk's CTAs, numbered x fastest
    """

    def __init__(self, grid: Dim, block: Dim, first: int, count: int, order: Indices) -> None:
        self.grid, self.block, self.num_ctas = grid, block, count
        self.threads = block[0] * block[1] * block[2]
        self.stride = -(-self.threads // WARP) * WARP
        self.total = count * self.stride
        self.ctas = order[first : first + count]  # linear index of each CTA of the chunk
        self.slot: Indices = np.repeat(np.arange(count), self.stride)  # CTA of a lane, in the chunk
        self.thread: Indices = np.tile(np.arange(self.stride), count)  # in its CTA
        self.exists: Mask = self.thread < self.threads
        self.clock = 0  # steps taken so far, what the clock registers show
        self._special: dict[str, Any] = {}
        self._subsets: dict[bytes, Active] = {}

    def subset(self, mask: Mask) -> Active:
        """The Active of a mask; equal masks give the same object."""
        key = mask.tobytes()
        found = self._subsets.get(key)
        if found is None:
            if len(self._subsets) >= KEPT_SUBSETS:
                self._subsets.clear()
            found = self._subsets[key] = Active(self, mask)
        return found

    def coordinates(self, lane: int) -> tuple[Dim, Dim]:
        """(CTA, thread) of a lane."""
        cta, thread = int(self.ctas[self.slot[lane]]), int(self.thread[lane])
        return _unravel(cta, self.grid), _unravel(thread, self.block)

    def special(self, name: str) -> Any:
        """uint32 (clock64 and globaltimer: uint64) [lanes], or a scalar where all lanes agree."""
        if name.startswith(("clock", "globaltimer")):
            high = name.endswith("_hi")
            wide = name in ("clock64", "globaltimer")
            return np.uint64(self.clock) if wide else np.uint32(0 if high else self.clock)
        if name not in self._special:
            self._special[name] = self._compute(name)
        return self._special[name]

    def provide(self, name: str, value: Any) -> None:
        """Set a special register that the launch decides."""
        self._special[name] = value

    def _compute(self, name: str) -> Any:
        kind, _, axis = name.partition("_")
        if axis in ("x", "y", "z"):
            i = "xyz".index(axis)
            if kind == "ntid":
                return np.uint32(self.block[i])
            if kind == "nctaid":
                return np.uint32(self.grid[i])
            dims = self.block if kind == "tid" else self.grid
            if dims[i] == 1:
                return np.uint32(0)
            index = self.thread if kind == "tid" else self.ctas[self.slot]
            below = dims[0] ** (i > 0) * dims[1] ** (i > 1)
            return (index // below % dims[i]).astype(np.uint32)
        lane = (self.thread % WARP).astype(np.uint32)
        one = np.uint32(1)
        whole = np.uint32(0xFFFFFFFF)
        lanemasks = {
            "lanemask_eq": lambda: one << lane,
            "lanemask_lt": lambda: (one << lane) - one,
            "lanemask_le": lambda: (one << lane) | ((one << lane) - one),
            "lanemask_gt": lambda: ~((one << lane) | ((one << lane) - one)) & whole,
            "lanemask_ge": lambda: ~((one << lane) - one) & whole,
        }
        if name in lanemasks:
            return lanemasks[name]()
        if name == "laneid":
            return lane
        if name == "warpid":
            return (self.thread // WARP).astype(np.uint32)
        if name == "nwarpid":
            return np.uint32(self.stride // WARP)
        raise KeyError(name)


class Active:
    """The lanes that run a segment."""

    def __init__(self, lanes: Lanes, mask: Mask) -> None:
        self.all, self.mask = lanes, mask
        self.lanes: Indices = np.flatnonzero(mask)  # the active lanes
        self.count = self.lanes.size
        self.is_full = self.count == lanes.total
        self.is_compact = not self.is_full and self.count < COMPACT_BELOW * lanes.total
        self.n = self.count if self.is_compact else lanes.total  # rows of a register
        self.pick: Indices | None = None if self.is_full or self.is_compact else self.lanes
        self._special: dict[str, Any] = {}
        self._rows: Indices | None = None
        self._slots: Indices | None = None
        warps = mask.reshape(-1, WARP).any(1)
        self.num_warps = int(warps.sum())  # with at least one active lane
        self.is_whole = self.count == WARP * self.num_warps  # no warp is active in part
        self._warps = warps
        self._in_warps: Indices | None = None

    # -------------------------------------------------------- registers

    def gather(self, register: Any) -> Any:
        """Compact mode: the active rows of a register."""
        return register[self.lanes] if register.ndim else register

    def active(self, values: Any) -> Any:
        """The active lanes' elements of a value of this subset; a scalar stays one."""
        if self.pick is None or values.ndim == 0:
            return values
        return values[self.pick]

    def spread(self, values: Any) -> Any:
        """Rows of a register from the active lanes' values, in any further dimensions."""
        if self.pick is None or values.ndim == 0:
            return values
        out = np.zeros((self.n, *values.shape[1:]), values.dtype)
        out[self.pick] = values
        return out

    def store(self, old: Any, new: Any) -> Any:
        """A whole register after the active lanes got new values; `old` is not changed."""
        if self.is_full:
            return new
        if not self.is_compact:
            return np.where(self.mask, new, old)
        if old.ndim:
            out = old.copy()
        else:
            out = np.full(self.all.total, old)
        out[self.lanes] = new
        return out

    def each(self, values: Any) -> Any:
        """[active lanes]: like `active`, a scalar repeated."""
        picked = self.active(values)
        return picked if picked.ndim else np.broadcast_to(picked, (self.count,))

    def special(self, name: str) -> Any:
        """A special register's rows for this subset."""
        value = self.all.special(name)
        if not self.is_compact or value.ndim == 0:
            return value
        if name not in self._special:
            self._special[name] = value[self.lanes]
        return self._special[name]

    # ----------------------------------------------------- warps and CTAs

    @property
    def rows(self) -> Indices:
        """[all lanes]: position of a lane among the active ones, -1 for the others."""
        if self._rows is None:
            self._rows = np.full(self.all.total, -1)
            self._rows[self.lanes] = np.arange(self.count)
        return self._rows

    @property
    def slots(self) -> Indices:
        """[active lanes]: the lane's CTA in the chunk."""
        if self._slots is None:
            self._slots = self.all.slot[self.lanes]
        return self._slots

    @property
    def in_warps(self) -> Indices:
        """[active lanes]: place of a lane among the 32 * num_warps lanes of the active warps."""
        if self._in_warps is None:
            rank = np.cumsum(self._warps) - 1
            self._in_warps = rank[self.lanes // WARP] * WARP + self.lanes % WARP
        return self._in_warps

    def to_warps(self, values: Any) -> Any:
        """[num_warps, 32] of a value's rows; 0 where a lane of a warp is not active."""
        picked = self.each(values)
        if self.is_whole:
            return picked.reshape(-1, WARP)
        out = np.zeros(self.num_warps * WARP, picked.dtype)
        out[self.in_warps] = picked
        return out.reshape(-1, WARP)

    def from_warps(self, values: Any) -> Any:
        """Rows of a register from [num_warps, 32]."""
        flat = values.reshape(-1)
        return self.spread(flat if self.is_whole else flat[self.in_warps])

    @property
    def present(self) -> Mask:
        """bool [num_warps, 32]: the lanes of the active warps that are active."""
        return self.mask.reshape(-1, WARP)[self._warps]

    def lane_of(self, warp: int, lane: int) -> int:
        """The lane, in the chunk, of a lane of the `warp`-th active warp."""
        return int(np.flatnonzero(self._warps)[warp]) * WARP + lane

    def split(self, condition: Any) -> tuple[Mask, Mask]:
        """(taken, not taken) over all lanes, by a bool [rows]."""
        taken = np.zeros(self.all.total, bool)
        if self.is_compact:
            taken[self.lanes] = condition
        else:
            np.logical_and(self.mask, condition, out=taken)
        return taken, self.mask & ~taken


def _unravel(index: int, dims: Dim) -> Dim:
    return index % dims[0], index // dims[0] % dims[1], index // (dims[0] * dims[1])
