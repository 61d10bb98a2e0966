"""Which context is current on this thread, as far as this package knows.

The driver is asked whenever it is not a launch: two calls, 0.2 us. A launch trusts what is noted
here: while one context is all that was ever bound, that it is current; later, `THREAD.bound`, which
takes 0.04 us to read. Where that is wrong (a thread that has no context yet, another library that
changed it) either the stream is enough for the driver to know the context, or the launch fails with
an invalid context or handle, and is tried once more after asking.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from pyferrum_kv.driver.api import Api


class _Thread(threading.local):
    bound: object  # the ledger of the context last bound here
    entered: list[Any]  # what each open `with ctx:` restores

    def __init__(self) -> None:  # once a thread; read at every launch, so not a class attribute
        self.bound = None
        self.entered = []


THREAD = _Thread()


class _Crowd:
    """Whether a second context has been bound, on whichever thread."""

    __slots__ = ("_lock", "first", "is_one")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_one = True
        self.first: weakref.ref[Any] | None = None

    def meet(self, ledger: object) -> None:
        with self._lock:
            if self.first is None and ledger is not None:
                self.first = weakref.ref(ledger)
            elif self.first is None or self.first() is not ledger:
                self.is_one = False  # for good


CROWD = _Crowd()


def bind(api: Api, handle: Any, ledger: object) -> None:
    """Make the context current on this thread, and leave it so."""
    if int(api.call("cuCtxGetCurrent")) != int(handle):
        api.call("cuCtxSetCurrent", handle, on=f"context {int(handle):#x}")
    THREAD.bound = ledger
    if CROWD.is_one:
        CROWD.meet(ledger)


def enter(api: Api, handle: Any, ledger: object) -> None:
    """Make the context current, and remember the one that was."""
    previous = api.call("cuCtxGetCurrent")
    bind(api, handle, ledger)
    THREAD.entered.append(previous)


def leave(api: Api) -> None:
    """Restore what was current before the matching enter()."""
    previous = THREAD.entered.pop()
    THREAD.bound = None
    if int(api.call("cuCtxGetCurrent")) != int(previous):
        api.call("cuCtxSetCurrent", previous, on="the context that was current before")


def unbind(api: Api, handle: Any) -> None:
    """Leave this thread without a context if `handle` is current on it: it is about to go.

    Nor may an open `with` restore it: the driver takes a destroyed context, and crashes at its
    next use.
    """
    none = api.raw.CUcontext(0)
    THREAD.bound = None
    THREAD.entered[:] = [none if int(held) == int(handle) else held for held in THREAD.entered]
    if int(api.call("cuCtxGetCurrent")) == int(handle):
        api.call("cuCtxSetCurrent", none, on="no context")
