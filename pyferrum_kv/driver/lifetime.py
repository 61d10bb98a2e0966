"""Who owns what: every driver handle is an `Owned`, and a context's `Ledger` gives handles back.

A finaliser here never calls the driver. It may run on any thread, in the middle of another driver
call, inside a capture, after fork() or while the interpreter shuts down; in all of these a driver
call is wrong or worse. It only queues the handle, and the context's next driver call (or its
close()) gives it back. What fails then is recorded with its origin, never raised at somebody
else's call.

The order looks after itself: what a release still needs (the stream that a slice is freed on) it
holds, and so a stream can only be queued once its last slice has been given back.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pyferrum_kv.errors import CaptureError, FerrumError

_KEYS = itertools.count(1)  # next() is atomic; a key is never used again


class DeferredError(NamedTuple):
    """A failure that had no caller to raise to: what was being given back, and the error."""

    origin: str
    error: Exception


class Ledger:
    """What one context has given out, and what waits to be given back.

    `attention` is the one flag that a hot path reads: something waits, a capture runs, or the
    context is closed, lost or forked. `captures` holds, for each running capture, what its graph
    must keep alive.
    """

    __slots__ = (
        "__weakref__",
        "_live",
        "_waiting",
        "attention",
        "captures",
        "deferred",
        "last_launch",
        "pid",
        "state",
    )

    def __init__(self) -> None:
        self.attention = False
        self.state = "ok"  # "ok", "lost", "closed"
        self.pid = os.getpid()
        self.captures: list[list[object]] = []
        self.deferred: deque[DeferredError] = deque(maxlen=256)
        self.last_launch = ""  # here, because a slot is the cheapest place to note it
        self._live: dict[int, tuple[str, Callable[[], None]]] = {}
        self._waiting: deque[int] = deque()
        _LEDGERS.add(self)

    def __len__(self) -> int:
        """How many handles are out."""
        return len(self._live)

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child of the one that the handles belong to."""
        return self.pid != os.getpid()

    def add(self, what: str, release: Callable[[], None]) -> int:
        """Enter a handle; `release` gives it back and must hold all that it needs."""
        key = next(_KEYS)
        self._live[key] = (what, release)
        return key

    def holds(self, key: int) -> bool:
        """Whether the handle is still out."""
        return key in self._live

    def queue(self, key: int) -> None:
        """Give the handle back later. This is all that a finaliser does."""
        self._waiting.append(key)
        self.attention = True  # after the append: drain() clears it before it looks

    def forget(self, key: int) -> None:
        """Take a handle out: somebody else gives it back."""
        self._live.pop(key, None)

    def give_back(self, key: int) -> None:
        """Give one handle back now, or after the running capture; raises what the driver says."""
        if self.captures:
            self.queue(key)
            return
        entry = self._live.pop(key, None)
        if entry is not None and self.state == "ok" and not self.is_forked:
            entry[1]()

    def drain(self) -> None:
        """Give back what waits, unless a capture runs; the context must be current."""
        self.attention = False
        while self._waiting and not self.captures:
            try:
                key = self._waiting.popleft()
            except IndexError:  # another thread took it
                break
            if not self._release(key):
                break
        self.attention = self.attention or self.state != "ok" or bool(self.captures)

    def close(self) -> None:
        """Give everything back, newest first, and be closed."""
        self.captures.clear()
        for key in reversed(list(self._live)):
            self._release(key)
        self._live.clear()
        self._waiting.clear()
        self.state, self.attention = "closed", True

    def _release(self, key: int) -> bool:
        """Whether the queue may go on; a capture of somebody else's makes it wait."""
        entry = self._live.pop(key, None)
        if entry is None or self.state != "ok":
            return True
        try:
            entry[1]()
        except CaptureError:
            self._live[key] = entry
            self.queue(key)
            return False
        except FerrumError as error:
            self.deferred.append(DeferredError(entry[0], error))
        return True

    def keep(self, things: Iterable[object]) -> None:
        """Keep `things` alive for the graphs being captured."""
        for kept in self.captures:
            kept.extend(things)


_LEDGERS: weakref.WeakSet[Ledger] = weakref.WeakSet()


def _after_fork() -> None:
    for ledger in list(_LEDGERS):
        ledger.attention = True  # the next call compares process ids


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Owned:
    """A driver handle with one owner; whoever needs it alive holds this object.

    Closing twice is closing once. Dropped unclosed, it is queued for the context's next call.
    """

    __slots__ = ("__weakref__", "_finalizer", "_key", "_ledger", "value")

    def __init__(self, ledger: Ledger, value: Any, what: str, release: Callable[[], None]) -> None:
        self.value = value
        self._ledger = ledger
        self._key = ledger.add(what, release)
        self._finalizer = weakref.finalize(self, ledger.queue, self._key)
        self._finalizer.atexit = False  # the process's end gives everything back

    @property
    def is_closed(self) -> bool:
        return not self._finalizer.alive or not self._ledger.holds(self._key)

    def close(self) -> None:
        """Give the handle back now; during a capture, after it."""
        if self._finalizer.detach() is not None:
            self._ledger.give_back(self._key)

    def disown(self) -> None:
        """Forget the handle: somebody else gives it back."""
        if self._finalizer.detach() is not None:
            self._ledger.forget(self._key)


class Dependants:
    """Weak references to what must hear that their ground is closed: prepared launches."""

    __slots__ = ("_refs",)

    def __init__(self) -> None:
        self._refs: list[weakref.ref[Any]] = []

    def __len__(self) -> int:
        """How many are listed, gone ones not yet cleared among them."""
        return len(self._refs)

    def add(self, dependant: Any) -> None:
        refs = self._refs
        if len(refs) >= 16 and len(refs) & (len(refs) - 1) == 0:  # at powers of two: amortised
            refs[:] = [ref for ref in refs if ref() is not None]
        refs.append(weakref.ref(dependant))

    def invalidate(self, reason: str) -> None:
        """Tell each dependant once."""
        refs, self._refs = self._refs, []
        for ref in refs:
            dependant = ref()
            if dependant is not None:
                dependant.invalidate(reason)
