"""BoundContext: a context as something to call through: bound to the thread, judged, given back.

Every call binds the context to the calling thread first, and leaves it bound; `with ctx:` restores
what was current before. After a sticky error the context is lost: it keeps the first cause, and
refuses every later call with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from pyferrum_kv.driver import binding
from pyferrum_kv.driver.api import Api, forked_error
from pyferrum_kv.driver.codes import STICKY
from pyferrum_kv.driver.device import Device
from pyferrum_kv.driver.facts import ContextFacts
from pyferrum_kv.driver.lifetime import DeferredError, Ledger, Owned
from pyferrum_kv.errors import CaptureError, ClosedError, ContextLost, DriverError

_Self = TypeVar("_Self", bound="BoundContext")


class BoundContext(ContextFacts):
    """Handle, state and calls; CudaContext adds opening and making."""

    def __init__(self, device: Device, handle: Any, *, is_primary: bool, owned: bool) -> None:
        self.device = device
        self.api: Api = device.api
        self.is_primary = is_primary
        self.ledger = Ledger()
        # what higher layers keep as long as the context lives
        self.attachments: dict[Any, Any] = {}
        self._handle = handle
        self._owned = owned
        self._lost: DriverError | None = None
        self._first_cause = ""
        self._lock = threading.RLock()

    # state

    @property
    def handle(self) -> int:
        """The address of the CUcontext."""
        return int(self._handle)

    @property
    def state(self) -> str:
        """ "ok", "lost" after a sticky error, or "closed"."""
        return self.ledger.state

    @property
    def last_launch(self) -> str:
        """The kernel launched last and its configuration, for the report of a lost context."""
        return self.ledger.last_launch

    def deferred_errors(self) -> list[DeferredError]:
        """Take the failures that had no caller to raise to, each with its origin."""
        taken = []
        while self.ledger.deferred:
            taken.append(self.ledger.deferred.popleft())
        return taken

    def __repr__(self) -> str:
        kind = "primary" if self.is_primary else "created" if self._owned else "adopted"
        return f"<CudaContext {kind}, device {self.ordinal} of {self.api.name}, {self.state}>"

    # calling

    def call(self, name: str, *args: Any, on: str = "") -> Any:
        """Make a driver call with this context current; ContextLost on a sticky error."""
        if self.ledger.attention:
            self.attend(name)
        binding.bind(self.api, self._handle, self.ledger)
        try:
            return self.api.call(name, *args, on=on)
        except DriverError as error:
            if error.code not in STICKY:
                raise
            raise self.lose(error) from error

    def attend(self, doing: str) -> None:
        """Refuse when closed, lost or forked; otherwise give back what waits."""
        ledger = self.ledger
        if ledger.is_forked:
            raise forked_error(doing)
        if ledger.state == "closed":
            raise ClosedError(f"{doing}: {self!r}; open a new one with CudaContext.new()")
        if self._lost is not None:
            raise self.lose(self._lost, doing)
        self.bind_to_thread()
        ledger.drain()

    def lose(self, error: DriverError, doing: str = "") -> ContextLost:
        """Mark the context lost; the first error stays the cause."""
        if self._lost is None:
            after = f", after the launch of {self.last_launch}" if self.last_launch else ""
            self._first_cause = f"{error.name} at {error.call}({error.on}){after}"
            self._lost = error
            if self.ledger.state == "ok":
                self.ledger.state = "lost"
            self.ledger.attention = True
        on = error.on if not doing else ""
        return ContextLost(
            doing or error.call,
            error.code,
            error.name,
            error.meaning,
            on=on,
            first_cause=self._first_cause,
        )

    def bind_to_thread(self) -> None:
        """Make this context current on the calling thread, and leave it so."""
        binding.bind(self.api, self._handle, self.ledger)

    def __enter__(self: _Self) -> _Self:
        if self.ledger.attention:
            self.attend("with context")
        binding.enter(self.api, self._handle, self.ledger)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        binding.leave(self.api)

    @contextmanager
    def profile(self) -> Iterator[None]:
        """Have profilers started with `--capture-range=cudaProfilerApi` record this block."""
        self.call("cuProfilerStart")
        try:
            yield
        finally:
            self.call("cuProfilerStop")

    def synchronize(self) -> None:
        """Wait for all work of the context."""
        self.call("cuCtxSynchronize", on=repr(self))

    # closing

    def give_back(self, owned: Owned) -> None:
        """Close a handle; of a closed, lost or forked context it is gone already."""
        if self.ledger.state == "ok" and not self.ledger.is_forked:
            self.bind_to_thread()
        try:
            owned.close()
        except DriverError as error:
            if error.code not in STICKY:
                raise
            self.lose(error)  # close() itself did what it could; the next call tells

    def settle(self) -> None:
        """Give back what waits, now instead of at the next call."""
        ledger = self.ledger
        if ledger.attention and ledger.state == "ok" and not ledger.is_forked:
            self.attend("settle")

    def close(self) -> None:
        """Wait for the work, give back all that was given out, then the context; twice is once.

        A primary context closes for everybody who got this object from new().
        """
        with self.api.lock, self._lock:
            ledger = self.ledger
            if ledger.state == "closed":
                return
            was_lost = ledger.state == "lost"
            if ledger.is_forked:
                ledger.state = "closed"
                return
            if not was_lost:
                self._wait_for_work()
            ledger.close()
            self.attachments.clear()
            if self.is_primary:
                self.api.primaries.pop(self.ordinal, None)
            if self._owned:
                self._end(was_lost)

    def _wait_for_work(self) -> None:
        """Wait for the work that still uses what is about to be given back."""
        try:
            self.bind_to_thread()
            self.api.call("cuCtxSynchronize", on=repr(self))
        except (DriverError, CaptureError) as error:
            self.ledger.deferred.append(DeferredError(repr(self), error))
            if isinstance(error, DriverError) and error.code in STICKY:
                self.lose(error)

    def _end(self, was_lost: bool) -> None:
        try:
            binding.unbind(self.api, self._handle)
            if self.is_primary:
                self.api.call("cuDevicePrimaryCtxRelease", self.cu_device, on=repr(self))
            else:
                self.api.call("cuCtxDestroy", self._handle, on=repr(self))
        except DriverError as error:
            if not was_lost:
                raise
            self.ledger.deferred.append(DeferredError(repr(self), error))
