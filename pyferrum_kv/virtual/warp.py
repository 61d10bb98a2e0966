"""Warp collectives: shuffles, votes, matches, reductions, matrix products.

Values are brought to [warps, 32] first. A lane that the member mask names and that is not there, or
one that takes part without being named, is a finding; its value counts as 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from pyferrum_kv.virtual import matrices
from pyferrum_kv.virtual.access_shared import SharedAccess
from pyferrum_kv.virtual.lanes import WARP, Active
from pyferrum_kv.virtual.numerics_integer import popc

U4 = np.uint32
ALL_LANES = U4(0xFFFFFFFF)
_LANE = np.arange(WARP, dtype=np.int64)
_BIT = U4(1) << np.arange(WARP, dtype=U4)


class WarpOperations(SharedAccess):
    """The .sync collectives."""

    def check_members(self, active: Active, mask: Any, site: int) -> None:
        """Findings unless the member masks are alike and name exactly lanes that are there."""
        if active.is_whole and mask.ndim == 0 and mask == ALL_LANES:
            return
        masks, present = active.to_warps(mask), active.present
        there = (present * _BIT).sum(1, dtype=U4)[:, None]
        outside = present & ((masks & _BIT) == 0)
        missing = np.where(present, masks & ~there, U4(0))
        if not outside.any() and not missing.any():
            named = np.where(present, masks, U4(0)).max(1, keepdims=True)
            if not (present & (masks != named) & ((named & _BIT) != 0)).any() or not (
                self._masks_differ(masks, present)
            ):
                return
            problem, where = "member masks of the warp's lanes differ", present & (masks != named)
        elif np.count_nonzero(outside):
            problem, where = "the lane is not in its own member mask", outside
        else:
            problem, where = "", missing != 0
        warp, lane = (int(n) for n in np.argwhere(where)[0])
        if not problem:
            absent = int(missing[warp, lane])
            first = (absent & -absent).bit_length() - 1
            gone = not self.live.reshape(-1, WARP)[active.lane_of(warp, 0) // WARP, first]
            why = "has exited" if gone else "is not converged here"
            problem = f"member mask {int(masks[warp, lane]):#010x} names lane {first}, which {why}"
        self.tell("warp_sync", site, active.lane_of(warp, lane), problem, lanes=int(where.sum()))

    @staticmethod
    def _masks_differ(masks: Any, present: Any) -> bool:
        """Whether a lane is named by a mask that is not its own."""
        for warp in range(masks.shape[0]):
            lanes = np.flatnonzero(present[warp])
            if any(
                masks[warp, a] != masks[warp, b] and masks[warp, a] >> b & 1
                for a in lanes
                for b in lanes
            ):
                return True
        return False

    # ---------------------------------------------------------- shuffles

    def shfl(
        self, active: Active, mode: str, value: Any, b: Any, c: Any, mask: Any, site: int
    ) -> tuple[Any, Any]:
        """(value of the source lane, whether the source was in range)."""
        self.check_members(active, mask, site)
        values = active.to_warps(value)
        if b.ndim == 0 and c.ndim == 0:
            source, in_range = _fixed_source(mode, int(b), int(c))
            shuffled = values[:, source]
            ranges = np.broadcast_to(in_range, shuffled.shape)
            sources = np.broadcast_to(source, shuffled.shape)
        else:
            moves = active.to_warps(b).astype(np.int64)
            clamps = active.to_warps(c).astype(np.int64)
            sources, ranges = shuffle_source(mode, _LANE, moves, clamps)
            shuffled = np.take_along_axis(values, sources, 1)
        if not active.is_whole or mask.ndim or mask != ALL_LANES:
            self._check_sources(active, sources, mask, site)
        return active.from_warps(shuffled), active.from_warps(ranges)

    def _check_sources(self, active: Active, sources: Any, mask: Any, site: int) -> None:
        present = active.present
        named = present & ((active.to_warps(mask) & _BIT) != 0)
        reads_absent = present & ~np.take_along_axis(named, np.asarray(sources), 1)
        if np.count_nonzero(reads_absent):
            warp, lane = (int(n) for n in np.argwhere(reads_absent)[0])
            source = int(sources[warp, lane])
            detail = f"reads lane {source}, which does not take part in the shuffle"
            self.tell("warp_sync", site, active.lane_of(warp, lane), detail)

    # ------------------------------------------------- votes and matches

    def vote(self, active: Active, mode: str, predicate: Any, mask: Any, site: int) -> Any:
        """The vote of the lanes in the member mask."""
        self.check_members(active, mask, site)
        votes = active.to_warps(predicate).astype(bool)
        present = active.present
        members = active.to_warps(mask)
        ballots = (votes * _BIT).sum(1, dtype=U4)[:, None] & members
        there = (present * _BIT).sum(1, dtype=U4)[:, None] & members
        result = {
            "ballot": lambda: ballots,
            "any": lambda: ballots != 0,
            "all": lambda: ballots == there,
            "uni": lambda: (ballots == 0) | (ballots == there),
        }[mode]()
        return active.from_warps(result)

    def match(self, active: Active, mode: str, value: Any, mask: Any, site: int) -> Any:
        """any: lanes with an equal value. all: (the member mask or 0, whether all are equal)."""
        self.check_members(active, mask, site)
        values, members = active.to_warps(value), active.to_warps(mask)
        named = active.present & ((members & _BIT) != 0)
        equal = (values[:, :, None] == values[:, None, :]) & named[:, None, :]
        masks = (equal * _BIT).sum(2, dtype=U4) & members
        if mode == "any":
            return (active.from_warps(masks), None)
        there = (named * _BIT).sum(1, dtype=U4)[:, None] & members
        same = masks == there
        return active.from_warps(np.where(same, there, U4(0))), active.from_warps(same)

    def activemask(self, active: Active) -> Any:
        there = (active.present * _BIT).sum(1, dtype=U4)
        return active.from_warps(np.repeat(there, WARP).reshape(-1, WARP))

    def elect(self, active: Active, mask: Any, site: int) -> tuple[Any, Any]:
        """(the lowest lane of the member mask, whether this is it)."""
        self.check_members(active, mask, site)
        members = active.to_warps(mask)
        lowest = popc((members & (~members + U4(1))) - U4(1))
        return active.from_warps(lowest), active.from_warps(lowest == _LANE)

    def redux(self, active: Active, action: str, value: Any, mask: Any, site: int) -> Any:
        """Reduce over the lanes of the member mask."""
        self.check_members(active, mask, site)
        values, members = active.to_warps(value), active.to_warps(mask)
        named = active.present & ((members & _BIT) != 0)
        kind = values.dtype
        if kind.kind == "i":
            worst = {"min": np.iinfo(kind).max, "max": np.iinfo(kind).min}.get(action, 0)
        else:
            worst = np.iinfo(kind).max if action in ("min", "and") else 0
        reduce = {
            "add": np.add,
            "min": np.minimum,
            "max": np.maximum,
            "and": np.bitwise_and,
            "or": np.bitwise_or,
            "xor": np.bitwise_xor,
        }[action].reduce
        full = bool(named.all()) and (members == members[:, :1]).all()
        if full or (np.where(named, members, members.max(1, keepdims=True)) == members).all():
            kept = np.where(named, values, kind.type(worst))
            total = reduce(kept, axis=1, dtype=kind)[:, None]
            return active.from_warps(np.broadcast_to(total, values.shape))
        groups = ((members[:, :, None] & _BIT) != 0) & named[:, None, :]
        kept = np.where(groups, values[:, None, :], kind.type(worst))
        return active.from_warps(reduce(kept, axis=2, dtype=kind))

    def warp_barrier(self, active: Active, mask: Any, site: int) -> None:
        """bar.warp.sync: orders the memory accesses of its lanes."""
        self.check_members(active, mask, site)
        if self.shared_races is not None:
            self.shared_races.warp_synced(active)

    # --------------------------------------------------- matrix products

    def mma(
        self,
        active: Active,
        a: tuple[Any, ...],
        b: tuple[Any, ...],
        c: tuple[Any, ...],
        k: int,
        a_type: str,
        b_type: str,
        c_type: str,
        satfinite: bool,
        site: int,
    ) -> list[Any]:
        """D = A * B + C of m16n8k<k>, fragments as the PTX manual lays them out."""
        self.whole_warps(active, site)
        left, right, added = ([active.to_warps(v) for v in registers] for registers in (a, b, c))
        results = matrices.mma((left, right, added), k, a_type, b_type, c_type, satfinite)
        return [active.from_warps(r) for r in results]

    def movmatrix(self, active: Active, value: Any, site: int) -> Any:
        """Transpose an 8x8 matrix of b16 that lies across the warp."""
        self.whole_warps(active, site)
        return active.from_warps(matrices.transpose_8x8(active.to_warps(value)))


@lru_cache(maxsize=256)
def _fixed_source(mode: str, b: int, c: int) -> tuple[Any, Any]:
    return shuffle_source(mode, _LANE, b, c)


def shuffle_source(mode: str, lane: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """(source lane, in range) as the PTX manual computes them."""
    move, clamp, segment = b & 31, c & 31, (c >> 8) & 31
    highest = (lane & segment) | (clamp & ~segment)
    lowest = lane & segment
    if mode == "up":
        source = lane - move
        in_range = source >= highest
    elif mode == "down":
        source = lane + move
        in_range = source <= highest
    else:
        source = lane ^ move if mode == "bfly" else lowest | (move & ~segment)
        in_range = source <= highest
    return np.where(in_range, source, lane), in_range
