"""Races in shared memory, and reads of what cp.async has not delivered.

Every granule of shared memory (the narrowest access that the kernel makes) remembers who wrote it
last and who has read it since. An access races with a remembered one by another thread unless a
barrier of the CTA, or of the warp they share, lies between. A memory of an access is one int64:
time << 36 | instruction << 20 | who, and `who` is a lane, several lanes of one warp, or many warps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyferrum_kv.virtual.lanes import WARP, Active, Indices, Mask
from pyferrum_kv.virtual.program import TYPE_BYTES, Imm, Kernel

if TYPE_CHECKING:
    from pyferrum_kv.virtual.access_shared import SharedAccess

TIME, SITE = 36, 20
WHO = (1 << SITE) - 1
SEVERAL = 1 << 19  # | warp: several lanes of that warp
MANY = WHO  # lanes of more than one warp
LAST_SITE = (1 << (TIME - SITE)) - 1


def granule_bytes(kernel: Kernel) -> int:
    """The narrowest access that the kernel can make to shared memory, 1 to 16 bytes."""
    narrowest = 16
    for instruction in kernel.instructions:
        words = instruction.opcode.split(".")
        if words[0] == "cp" and "shared" in instruction.opcode:
            size = instruction.operands[2]
            narrowest = min(narrowest, size.value if isinstance(size, Imm) else 4)
        elif words[0] in ("ld", "st", "atom", "red") and not {"global", "param", "local"} & set(
            words
        ):
            lanes = 4 if "v4" in words else 2 if "v2" in words else 1
            narrowest = min(narrowest, TYPE_BYTES.get(words[-1], 1) * lanes)
    return narrowest


class SharedRaces:
    """The memory of accesses of one chunk's shared memory."""

    def __init__(self, executor: SharedAccess, num_bytes: int, granule: int) -> None:
        self.executor = executor
        self.granule = granule
        count = num_bytes // self.granule
        self.wrote, self.read_by = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.acted: Any = None  # by an atomic; made when the first one comes
        self.flying: Any = None  # 1 + instruction of a cp.async under way; made likewise
        self.num_flying = 0
        lanes = executor.lanes.total
        self.since_barrier = np.ones(lanes, np.int64)  # older memories are ordered before the lane
        self.since_warp_barrier = np.zeros(lanes, np.int64)

    # ----------------------------------------------------------- synchronisation

    def synced(self, lanes: Mask) -> None:
        """These lanes passed a barrier of their CTA together."""
        self.since_barrier[lanes] = self._tick() << TIME

    def warp_synced(self, active: Active) -> None:
        self.since_warp_barrier[active.lanes] = self._tick() << TIME

    def _tick(self) -> int:
        self.executor.clock += 1
        return self.executor.clock

    # ----------------------------------------------------------------- accesses

    def read(self, index: Indices, lanes: Indices, size: int, site: int) -> None:
        place, who = self._granules(index, lanes, size)
        self._compare(self.wrote, place, who, site, "read-after-write", "reads", "wrote")
        if self.acted is not None:
            self._compare(self.acted, place, who, site, "read-after-atomic", "reads", "changed")
        self._check_flight(place, who, site)
        self._remember_read(place, who, site)

    def write(self, index: Indices, lanes: Indices, size: int, site: int, values: Any) -> None:
        place, who = self._granules(index, lanes, size)
        self._compare(self.wrote, place, who, site, "write-after-write", "writes", "wrote")
        self._compare(self.read_by, place, who, site, "write-after-read", "writes", "read")
        if self.acted is not None:
            self._compare(self.acted, place, who, site, "write-after-atomic", "writes", "changed")
        self._check_flight(place, who, site)
        mine = self._memory(site) | who
        self.wrote[place] = mine
        lost = self.wrote[place] != mine
        if np.count_nonzero(lost):
            self._same_instruction(place, who, lost, index, lanes, size, site, values)

    def atomic(self, index: Indices, lanes: Indices, size: int, site: int) -> None:
        place, who = self._granules(index, lanes, size)
        self._compare(self.wrote, place, who, site, "atomic-after-write", "changes", "wrote")
        self._compare(self.read_by, place, who, site, "atomic-after-read", "changes", "read")
        self._check_flight(place, who, site)
        if self.acted is None:
            self.acted = np.zeros_like(self.wrote)
        self._remember(self.acted, place, who, site)

    def _granules(self, index: Indices, lanes: Indices, size: int) -> tuple[Indices, Indices]:
        """(granule, lane) of every granule touched."""
        count = size // self.granule
        if count <= 1:
            return index, lanes
        places = index[:, None] * count + np.arange(count)
        return places.reshape(-1), np.repeat(lanes, count)

    def _memory(self, site: int) -> int:
        return self._tick() << TIME | min(site, LAST_SITE) << SITE

    def _remember_read(self, place: Indices, who: Indices, site: int) -> None:
        self._remember(self.read_by, place, who, site)

    def _remember(self, memory: Any, place: Indices, who: Indices, site: int) -> None:
        """Add lanes to those that a granule remembers since their barrier."""
        mine = self._memory(site) | who
        old = memory[place]
        current = old >= self.since_barrier[who]
        if np.count_nonzero(current):
            others = old & WHO
            changed = current & (others != who)
            if np.count_nonzero(changed):
                together = _warp_of(others) == who // WARP
                group = np.where(together, SEVERAL | who // WARP, MANY)
                mine = np.where(changed, (mine & ~WHO) | group, mine)
        memory[place] = mine
        kept = memory[place]
        lost = kept != mine
        if np.count_nonzero(lost):  # several lanes in this very instruction
            where, lane = place[lost], who[lost]
            stamp = kept[lost] & ~WHO
            apart = _warp_of(kept[lost] & WHO) != lane // WARP
            memory[where] = stamp | SEVERAL | lane // WARP
            memory[where[apart]] = stamp[apart] | MANY

    def _compare(
        self,
        memory: Any,
        place: Indices,
        who: Indices,
        site: int,
        hazard: str,
        does: str,
        did: str,
    ) -> None:
        """A finding where a remembered access by another thread is not ordered before this one."""
        old = memory[place]
        recent = old >= self.since_barrier[who]
        if not np.count_nonzero(recent):
            return
        rows = np.flatnonzero(recent)
        old, who, place = old[rows], who[rows], place[rows]
        other = old & WHO
        ordered = (_warp_of(other) == who // WARP) & (old < self.since_warp_barrier[who])
        racing = np.flatnonzero((other != who) & ~ordered)
        if racing.size:
            first = racing[0]
            self._tell(
                int(place[first]), int(who[first]), int(old[first]), site, hazard, does, did,
                np.unique(who[racing]).size,
            )  # fmt: skip

    def _same_instruction(
        self,
        place: Indices,
        who: Indices,
        lost: Any,
        index: Indices,
        lanes: Indices,
        size: int,
        site: int,
        values: Any,
    ) -> None:
        """Two lanes store to one place at once: a race unless the values are equal."""
        winner = self.wrote[place[lost]] & WHO
        row_of = np.zeros(self.executor.lanes.total, np.intp)
        row_of[lanes] = np.arange(lanes.size)
        raw = np.ascontiguousarray(np.broadcast_to(values, lanes.shape)).view(np.uint8)
        raw = raw.reshape(lanes.size, -1)
        differ = (raw[row_of[who[lost]]] != raw[row_of[winner]]).any(1)
        racing = np.flatnonzero(differ)
        if racing.size:
            first = np.flatnonzero(lost)[racing[0]]
            memory = int(self.wrote[place[first]])
            self._tell(
                int(place[first]), int(who[first]), memory, site,
                "write-after-write", "writes", "wrote", racing.size + 1,
            )  # fmt: skip

    def _tell(
        self,
        place: int,
        lane: int,
        memory: int,
        site: int,
        hazard: str,
        does: str,
        did: str,
        lanes: int,
    ) -> None:
        x = self.executor
        where = x.shared_place(place * self.granule)
        who = memory & WHO
        earlier = memory >> SITE & LAST_SITE
        if who == MANY:
            others = "threads of several warps"
        elif who & SEVERAL:
            others = f"threads of warp {(who & ~SEVERAL) % (x.lanes.stride // WARP)}"
        else:
            others = f"thread {x.lanes.coordinates(who)[1]}".replace(" ", "").replace("d(", "d (")
        x.tell(
            "race",
            site,
            lane,
            f"{hazard}, {where}: a thread {does} what another {did} in the same barrier interval",
            lanes=lanes,
            other=f"{did} at {x.where(earlier)} by {others}",
        )

    # ---------------------------------------------------------------- in flight

    def take_off(self, index: Indices, lanes: Indices, size: int, site: int) -> None:
        """A cp.async to these places starts."""
        place, who = self._granules(index, lanes, size)
        self._compare(self.read_by, place, who, site, "write-after-read", "copies over", "read")
        self._compare(self.wrote, place, who, site, "write-after-write", "copies over", "wrote")
        self._check_flight(place, who, site)
        if self.flying is None:
            self.flying = np.zeros(self.wrote.size, np.int32)
        self.flying[place] = site + 1
        self.num_flying += 1

    def land(self, index: Indices, size: int) -> None:
        place, _ = self._granules(index, index, size)
        self.flying[place] = 0

    def _check_flight(self, place: Indices, who: Indices, site: int) -> None:
        if not self.num_flying:
            return
        found = self.flying[place]
        if np.count_nonzero(found):
            rows = np.flatnonzero(found)
            where = self.executor.shared_place(int(place[rows[0]]) * self.granule)
            self.executor.tell(
                "in_flight",
                site,
                int(who[rows[0]]),
                f"access to {where} before its cp.async has been waited for",
                lanes=np.unique(who[rows]).size,
                other=f"copy started at {self.executor.where(int(found[rows[0]]) - 1)}",
            )


def _warp_of(who: Any) -> Any:
    """The warp of a remembered `who`; -1 for many."""
    warp = np.where(who & SEVERAL, who & (SEVERAL - 1), who // WARP)
    return np.where(who == MANY, -1, warp)
