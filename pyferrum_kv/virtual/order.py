"""Stream order: operations run when somebody waits for them, and carry vector clocks.

An `Op` is what a call wants done. Submitted to a stream it becomes a `Work`, which knows what must
be done before it: the stream's previous work, the events waited for, and what the legacy default
stream demands. Nothing else is ordered: the scheduler picks among the ready ones by a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

Clock = dict[int, int]
"""lane -> how many works of that lane come before."""


class Access(NamedTuple):
    """Bytes [low, high) of device memory that an operation read, or wrote."""

    low: int
    high: int
    wrote: bool


@dataclass(frozen=True, slots=True)
class Op:
    """One asynchronous operation: `run` does it and says what memory it touched."""

    kind: str  # "kernel", "memcpy", "memset", "host", "event", "alloc", "free", "empty"
    label: str
    run: Callable[[], Sequence[Access]]
    detail: Any = None  # for graph nodes: what the kind's parameters are


def nothing() -> Sequence[Access]:
    """The run of an operation that only orders."""
    return ()


@dataclass(eq=False, slots=True)
class Work:
    """An operation in its place: `lane` and `seq` name it, `clock` is all that comes before it."""

    op: Op
    owner: Any  # the Context it runs in; a fault there drops what is left
    lane: int
    seq: int
    clock: Clock
    after: tuple[Work, ...]
    done: bool = False
    finished_at: float = 0.0

    def ordered_after(self, lane: int, seq: int) -> bool:
        """Whether work `seq` of `lane` is certain to be complete before this one starts."""
        return self.clock.get(lane, 0) >= seq


@dataclass(eq=False, slots=True)
class Lane:
    """A line of works in order: a stream, or a branch of a launched graph."""

    number: int
    last: Work | None = None
    seq: int = 0


@dataclass(eq=False)
class Scheduler:
    """Holds no queue of its own: the works are linked by `after`, and run on demand."""

    lazy: bool
    rng: random.Random
    perform: Callable[[Work], None]  # runs a work and records its fault, if any
    forget: Callable[[], None]  # everything so far is ordered before everything to come
    host: Clock = field(default_factory=dict)
    unjoined: dict[int, Work] = field(default_factory=dict)  # lanes the host has not waited for
    lanes: int = 0

    def new_lane(self) -> Lane:
        self.lanes += 1
        return Lane(self.lanes)

    def submit(self, lane: Lane, op: Op, owner: Any, after: Iterable[Work | None] = ()) -> Work:
        """Put `op` at the end of `lane`, after `after`; run it now when the device is eager."""
        before = [w for w in (lane.last, *after) if w is not None]
        clock = dict(self.host)
        for work in before:
            join(clock, work.clock)
        lane.seq += 1
        clock[lane.number] = lane.seq
        waits = tuple({id(w): w for w in before if not w.done}.values())
        work = Work(op, owner, lane.number, lane.seq, clock, waits)
        lane.last = self.unjoined[lane.number] = work
        if not self.lazy:
            self.run(work)
        return work

    def run(self, goal: Work) -> None:
        """Run `goal` and what must come before it, in a seeded choice among what is ready."""
        for work in self._orders(self._closure(goal)):
            self._perform(work)

    def poll(self, goal: Work) -> bool:
        """Whether `goal` was done already; if not, let the device advance by one operation."""
        if goal.done:
            return True
        self._perform(next(self._orders(self._closure(goal))))
        return False

    def wait(self, goal: Work | None) -> None:
        """Run up to `goal`; the host is ordered after it from now on."""
        if goal is None:
            return
        self.run(goal)
        self.joined(goal)

    def joined(self, goal: Work) -> None:
        """The host knows `goal` to be complete: whatever is submitted later comes after it."""
        join(self.host, goal.clock)
        for number in [n for n, w in self.unjoined.items() if self.host.get(n, 0) >= w.seq]:
            del self.unjoined[number]
        if not self.unjoined:
            self.host.clear()
            self.forget()

    def pending(self, owner: Any) -> list[Work]:
        """The last works of the lanes of a context that the host has not waited for."""
        return [w for w in self.unjoined.values() if w.owner is owner]

    def _perform(self, work: Work) -> None:
        self.perform(work)
        work.done, work.after, work.finished_at = True, (), perf_counter()

    def _closure(self, goal: Work) -> list[Work]:
        if goal.done:
            return []
        found, queue = {id(goal): goal}, [goal]
        while queue:
            for work in queue.pop().after:
                if not work.done and id(work) not in found:
                    found[id(work)] = work
                    queue.append(work)
        return list(found.values())

    def _orders(self, works: list[Work]) -> Iterator[Work]:
        waits = {id(w): sum(not b.done for b in w.after) for w in works}
        next_of: dict[int, list[Work]] = {}
        for work in works:
            for before in work.after:
                next_of.setdefault(id(before), []).append(work)
        ready = [w for w in works if not waits[id(w)]]
        while ready:
            work = ready.pop(self.rng.randrange(len(ready)))
            yield work
            for following in next_of.get(id(work), ()):
                waits[id(following)] -= 1
                if not waits[id(following)]:
                    ready.append(following)


def join(clock: Clock, other: Clock) -> None:
    """Make `clock` also come after all that `other` comes after."""
    for lane, seq in other.items():
        if clock.get(lane, 0) < seq:
            clock[lane] = seq
