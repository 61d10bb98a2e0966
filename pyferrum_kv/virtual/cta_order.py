"""What orders the CTAs of a launch: fences, atomics that others see, and barriers inside a CTA.

`released[place]` holds, for each CTA that acted on the place after a fence, how far the writes of
each of its threads are covered: those before that time. Whoever acts on the place later acquires
it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.lanes import Active, Mask

if TYPE_CHECKING:
    from pyferrum_kv.virtual.executor_base import ExecutorBase
    from pyferrum_kv.virtual.last_writers import Access

Coverage = Any  # int64 [threads of the CTA, padded]: writes before this time are covered


@dataclass(slots=True)
class Acquired:
    """One look at a place that others had released."""

    time: int
    lane: int
    covered: dict[int, Coverage]


@dataclass(slots=True)
class ChunkOrder:
    """Fences and barriers of one chunk."""

    own_fence: Any  # [lanes]: time of the lane's last fence
    cta_fence: Any  # [lanes]: the CTA's last barrier before that fence
    known_own: Any  # [lanes]: own_fence as of the CTA's last barrier
    known_cta: Any  # [CTAs]: the latest cta_fence of any thread, as of the last barrier
    last_barrier: Any  # [CTAs]
    has_fence: Any  # [CTAs]
    barriers: list[tuple[int, Any]] = field(default_factory=list)  # (time, bool [CTAs])


class CtaOrder:
    """The order between the CTAs of one launch."""

    def __init__(self) -> None:
        self.released: dict[int, dict[int, Coverage]] = {}
        self.acquired: dict[int, list[Acquired]] = {}  # by CTA
        self._chunks: dict[int, ChunkOrder] = {}
        self._fences = 0

    def _chunk(self, x: ExecutorBase) -> ChunkOrder:
        found = self._chunks.get(id(x))
        if found is None:
            lanes, ctas = x.lanes.total, x.lanes.num_ctas
            never = np.full(lanes, -1, np.int64)
            found = self._chunks[id(x)] = ChunkOrder(
                never,
                never.copy(),
                never.copy(),
                np.full(ctas, -1, np.int64),
                np.zeros(ctas, np.int64),
                np.zeros(ctas, bool),
            )
        return found

    # ------------------------------------------------------------- events

    def fence(self, x: ExecutorBase, active: Active) -> None:
        chunk = self._chunk(x)
        self._fences += 1
        x.clock += 1
        chunk.own_fence[active.lanes] = x.clock
        chunk.cta_fence[active.lanes] = chunk.last_barrier[active.slots]
        chunk.has_fence[active.slots] = True

    def barrier(self, x: ExecutorBase, lanes: Mask) -> None:
        chunk = self._chunk(x)
        x.clock += 1
        slots = lanes.reshape(x.lanes.num_ctas, -1).any(1)
        chunk.known_own[lanes] = chunk.own_fence[lanes]
        by_cta = np.where(lanes, chunk.cta_fence, -1).reshape(x.lanes.num_ctas, -1).max(1)
        chunk.known_cta = np.where(slots, np.maximum(chunk.known_cta, by_cta), chunk.known_cta)
        chunk.last_barrier[slots] = x.clock
        chunk.barriers.append((x.clock, slots))

    def act(self, x: ExecutorBase, a: Active, index: Any, size: int, releases: bool) -> None:
        """An atomic: each lane in turn acquires what was released to the place, then releases."""
        if not self._fences and not releases and not self.released:
            return
        places = np.broadcast_to(index, (a.count,)) * size
        for row in range(a.count):
            self._acquire(x, int(a.lanes[row]), int(places[row]))
            self._release(x, int(a.lanes[row]), int(places[row]), releases)

    def acquire(self, x: ExecutorBase, a: Active, index: Any, size: int) -> None:
        """A strong load."""
        if self.released:
            for lane, place in zip(
                a.lanes, np.broadcast_to(index, (a.count,)) * size, strict=False
            ):
                self._acquire(x, int(lane), int(place))

    def release(self, x: ExecutorBase, a: Active, index: Any, size: int, releases: bool) -> None:
        """A strong store: what was released to the place before is gone."""
        if self._fences or releases:
            for lane, place in zip(
                a.lanes, np.broadcast_to(index, (a.count,)) * size, strict=False
            ):
                self.released.pop(int(place), None)
                self._release(x, int(lane), int(place), releases)

    def _acquire(self, x: ExecutorBase, lane: int, place: int) -> None:
        found = self.released.get(place)
        if found:
            cta = int(x.lanes.ctas[x.lanes.slot[lane]])
            known = self.acquired.setdefault(cta, [])
            known.append(Acquired(x.clock, lane, dict(found)))

    def _release(self, x: ExecutorBase, lane: int, place: int, releases: bool) -> None:
        chunk = self._chunk(x)
        slot = int(x.lanes.slot[lane])
        if not chunk.has_fence[slot] and not releases:
            return
        stride = x.lanes.stride
        first = slot * stride
        known = max(int(chunk.known_cta[slot]), int(chunk.cta_fence[lane]))
        own = int(chunk.own_fence[lane])
        if releases:  # the atomic is a fence by itself
            known, own = max(known, int(chunk.last_barrier[slot])), x.clock
        covered = np.maximum(chunk.known_own[first : first + stride], known)
        covered[lane - first] = max(int(covered[lane - first]), own)
        if covered.max() < 0:
            return
        cta = int(x.lanes.ctas[slot])
        held = self.released.setdefault(place, {})
        for acquired in self.acquired.get(cta, ()):
            if acquired.lane == lane or acquired.time < chunk.last_barrier[slot]:
                for other, theirs in acquired.covered.items():
                    held[other] = np.maximum(held[other], theirs) if other in held else theirs
        held[cta] = np.maximum(held[cta], covered) if cta in held else covered

    # ---------------------------------------------------------- questions

    def ordered(
        self,
        first: Access,
        first_lanes: Any,
        second: Access,
        second_lanes: Any,
        places: Any,
        atomics: list[Access],
    ) -> Any:
        """bool [pairs]: whether the first access is ordered before the second.

        places: byte of the arena that each pair is about
        """
        one, two = first.executor.lanes, second.executor.lanes
        first_ctas, threads = one.ctas[one.slot[first_lanes]], one.thread[first_lanes]
        second_ctas = two.ctas[two.slot[second_lanes]]
        result = np.zeros(len(first_lanes), bool)
        for cta in np.unique(second_ctas):
            rows = np.flatnonzero(second_ctas == cta)
            for event in self.acquired.get(int(cta), ()):
                if event.time < second.time:
                    seen = self._covered(event, first_ctas[rows], threads[rows], first.time)
                    knows = self._is_known(second, int(cta), event.time, event.lane)
                    result[rows] |= seen & (knows | (second_lanes[rows] == event.lane))
        if first.strong and not result.all():  # the atomics on one place have an order of their own
            result |= self._acted_between(first, first_lanes, second, second_lanes, places, atomics)
        return result

    @staticmethod
    def _covered(event: Acquired, ctas: Any, threads: Any, time: int) -> Any:
        seen = np.zeros(len(ctas), bool)
        for cta in np.unique(ctas):
            coverage = event.covered.get(int(cta))
            if coverage is not None:
                rows = ctas == cta
                seen[rows] = coverage[threads[rows]] > time
        return seen

    def _is_known(self, access: Access, cta: int, time: int, lane: int) -> bool:
        """Whether a barrier carried what a thread knew at `time` to its whole CTA."""
        lanes = access.executor.lanes
        slot = int(np.flatnonzero(lanes.ctas == cta)[0])
        return any(
            time < barrier < access.time and slots[slot]
            for barrier, slots in self._chunk(access.executor).barriers
        )

    def _acted_between(
        self,
        first: Access,
        first_lanes: Any,
        second: Access,
        second_lanes: Any,
        places: Any,
        atomics: list[Access],
    ) -> Any:
        """bool [pairs]: whether the second CTA acted on the place after the first access."""
        two = second.executor.lanes
        ctas = two.ctas[two.slot[second_lanes]].tolist()
        result = np.zeros(len(ctas), bool)
        for atomic in atomics:
            if atomic.executor is not second.executor or atomic.time >= second.time:
                continue
            if atomic.time < first.time:
                continue
            index = np.broadcast_to(atomic.index, atomic.lanes.shape) * atomic.size
            its_ctas = two.ctas[two.slot[atomic.lanes]]
            pairs = zip(index.tolist(), its_ctas.tolist(), strict=True)
            latest = dict(zip(pairs, atomic.lanes.tolist(), strict=True))
            base = (places // atomic.size * atomic.size).tolist()
            for i, pair in enumerate(zip(base, ctas, strict=True)):
                lane = latest.get(pair, -1)
                # in one instruction the lanes act in their order
                result[i] |= lane > first_lanes[i] if atomic is first else lane >= 0
        return result
