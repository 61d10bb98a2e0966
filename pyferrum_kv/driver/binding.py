"""Which context is current on this thread, as far as this package knows.

The driver is asked whenever it is not a launch: two calls, 0.2 us. A launch trusts `THREAD.bound`
instead. Another library may have changed the context in between: then the launch fails with an
invalid context or handle, and is tried once more after asking.
"""

from __future__ import annotations

import threading
from typing import Any

from pyferrum_kv.driver.api import Api


class _Thread(threading.local):
    bound: object = None  # the ledger of the context last bound here
    entered: list[Any]  # what each open `with ctx:` restores

    def __init__(self) -> None:
        self.entered = []


THREAD = _Thread()


def bind(api: Api, handle: Any, ledger: object) -> None:
    """Make the context current on this thread, and leave it so."""
    if int(api.call("cuCtxGetCurrent")) != int(handle):
        api.call("cuCtxSetCurrent", handle, on=f"context {int(handle):#x}")
    THREAD.bound = ledger


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
