"""CudaContext: where everything else comes from.

    ctx = CudaContext.new(0)          # the primary context of device 0, which other libraries share
    stream = ctx.new_stream()

Every call through a context binds it to the calling thread first, and leaves it bound; `with ctx:`
restores what was current before. Objects made by a context keep it alive. close() gives back all that
the context has given out, newest first.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pyferrum_kv.driver import binding
from pyferrum_kv.driver.api import Api, forked_error, open_driver
from pyferrum_kv.driver.codes import PEER_ACCESS_ALREADY_ENABLED, STICKY
from pyferrum_kv.driver.device import Device
from pyferrum_kv.driver.event import CudaEvent
from pyferrum_kv.driver.external import ExternalMemory
from pyferrum_kv.driver.facts import ContextFacts
from pyferrum_kv.driver.image import Image
from pyferrum_kv.driver.lifetime import DeferredError, Ledger, Owned
from pyferrum_kv.driver.module import CudaModule
from pyferrum_kv.driver.pinned import PinnedSlice
from pyferrum_kv.driver.pool import MemoryPool
from pyferrum_kv.driver.stream import CudaStream, as_cu_stream
from pyferrum_kv.driver.unified import UnifiedSlice
from pyferrum_kv.errors import (
    ArgumentError,
    CaptureError,
    ClosedError,
    ContextLost,
    DriverError,
    WrongContextError,
)

if TYPE_CHECKING:
    from pyferrum_kv.signature import Signature

_LEGACY, _PER_THREAD = 1, 2  # CU_STREAM_LEGACY, CU_STREAM_PER_THREAD; 0 may mean either
_NON_BLOCKING = 1


class CudaContext(ContextFacts):
    """A CUDA context of one device: primary, created, or adopted."""

    def __init__(self, device: Device, handle: Any, *, is_primary: bool, owned: bool) -> None:
        """Not called directly: use new(), create(), from_handle() or current()."""
        self.device = device
        self.api: Api = device.api
        self.is_primary = is_primary
        self.ledger = Ledger()
        self.last_launch = ""  # the kernel launched last, for the report of a lost context
        self.attachments: dict[
            Any, Any
        ] = {}  # what higher layers keep as long as the context lives
        self._handle = handle
        self._owned = owned
        self._lost: DriverError | None = None
        self._first_cause = ""
        self._lock = threading.RLock()
        self._modules: dict[str, CudaModule] = {}
        self._pool: MemoryPool | None = None
        self._peers: weakref.WeakSet[CudaContext] = weakref.WeakSet()
        raw = self.api.raw
        self._default = CudaStream(self, raw.CUstream(_LEGACY), "default stream")
        self._per_thread = CudaStream(self, raw.CUstream(_PER_THREAD), "per-thread stream")

    # opening

    @classmethod
    def new(cls, ordinal: int = 0, *, driver: Any = None) -> CudaContext:
        """Retain the primary context of a device; one object for an ordinal and driver."""
        api = open_driver(driver)
        with api.lock:
            held: CudaContext | None = api.primaries.get(ordinal)
            if held is None:
                _destroy_orphans(api)
                device = Device(api, ordinal)
                on = f"device {ordinal}"
                handle = api.call("cuDevicePrimaryCtxRetain", device.cu_device, on=on)
                held = api.primaries[ordinal] = cls(device, handle, is_primary=True, owned=True)
            held.bind_to_thread()
            return held

    @classmethod
    def create(cls, ordinal: int = 0, flags: int = 0, *, driver: Any = None) -> CudaContext:
        """Create a context beside the primary one, and bind it to this thread."""
        api = open_driver(driver)
        _destroy_orphans(api)
        device = Device(api, ordinal)
        params = () if api.bindings_version < 13000 else (None,)
        handle = api.call("cuCtxCreate", *params, flags, device.cu_device, on=f"device {ordinal}")
        context = cls(device, handle, is_primary=False, owned=True)
        weakref.finalize(context, api.orphans.append, (context.ledger, handle)).atexit = False
        context.bind_to_thread()
        return context

    @classmethod
    def from_handle(cls, handle: int, owned: bool = False, *, driver: Any = None) -> CudaContext:
        """Adopt a CUcontext by its address. `owned`: close() destroys it; else it is borrowed."""
        api = open_driver(driver)
        if not handle:
            raise ArgumentError(f"from_handle: handle is {handle!r}; wanted a CUcontext's address")
        adopted = api.raw.CUcontext(int(handle))
        binding.enter(api, adopted, None)
        try:
            ordinal = int(api.call("cuCtxGetDevice", on=f"context {int(handle):#x}"))
        finally:
            binding.leave(api)
        return cls(Device(api, ordinal), adopted, is_primary=False, owned=owned)

    @classmethod
    def current(cls, *, driver: Any = None) -> CudaContext | None:
        """The context that is current on this thread, borrowed; None where there is none."""
        api = open_driver(driver)
        handle = int(api.call("cuCtxGetCurrent"))
        held: CudaContext
        for held in list(api.primaries.values()):
            if held.handle == handle:
                return held
        return cls.from_handle(handle, driver=api) if handle else None

    # state

    @property
    def handle(self) -> int:
        """The address of the CUcontext."""
        return int(self._handle)

    @property
    def state(self) -> str:
        """ "ok", "lost" after a sticky error, or "closed"."""
        return self.ledger.state

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

    def __enter__(self) -> CudaContext:
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

    # making

    def default_stream(self) -> CudaStream:
        """The legacy default stream: it waits for, and holds up, every blocking stream."""
        return self._default

    def per_thread_stream(self) -> CudaStream:
        """A stream of its own for each calling thread."""
        return self._per_thread

    def new_stream(self, priority: int = 0) -> CudaStream:
        """A new stream that does not wait for the default stream; lower priorities go first."""
        on = f"priority {priority}"
        handle = self.call("cuStreamCreateWithPriority", _NON_BLOCKING, priority, on=on)
        what = f"stream {int(handle):#x}"
        destroy = self.api.call
        owned = Owned(
            self.ledger, handle, what, lambda: destroy("cuStreamDestroy", handle, on=what)
        )
        return CudaStream(self, handle, what, owned)

    def external_stream(self, stream: Any) -> CudaStream:
        """Borrow a stream of another library: a handle, or an object with __cuda_stream__()."""
        handle = as_cu_stream(self.api, stream)
        if int(handle) > _PER_THREAD:
            owner = int(self.call("cuStreamGetCtx", handle, on=f"stream {int(handle):#x}"))
            if owner != self.handle:
                raise WrongContextError(
                    f"external_stream: stream {int(handle):#x} belongs to context {owner:#x};"
                    f" wanted one of {self!r} at {self.handle:#x}"
                )
        return CudaStream(self, handle, f"external stream {int(handle):#x}", stream)

    def new_event(self, timing: bool = False) -> CudaEvent:
        """A new event; with `timing`, two of them tell milliseconds."""
        return CudaEvent(self, timing)

    def alloc_pinned(
        self, len: int, dtype: npt.DTypeLike, write_combined: bool = False
    ) -> PinnedSlice:
        """Page-locked host memory. `write_combined`: faster to send, very slow to read on the host."""
        return PinnedSlice(self, len, dtype, write_combined)

    def alloc_unified(self, len: int, dtype: npt.DTypeLike) -> UnifiedSlice:
        """Managed memory, one address for host and device."""
        return UnifiedSlice(self, len, dtype)

    def import_external_memory(self, fd: int, size: int) -> ExternalMemory:
        """Import memory that another API exported as a file descriptor; the driver takes `fd` over."""
        return ExternalMemory(self, fd, size)

    def mem_pool(self) -> MemoryPool:
        """The pool that stream.alloc() uses; made at first use, and this context's own."""
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = MemoryPool(self)
        return self._pool

    def new_mem_pool(self, release_threshold: int | None = None) -> MemoryPool:
        """A pool of its own, for stream.alloc(..., pool=)."""
        return MemoryPool(self, release_threshold)

    def load_module(
        self, image: Any, *, signatures: Mapping[str, Signature] | None = None, name: str = ""
    ) -> CudaModule:
        """Load PTX or a cubin: bytes, text, a Path or a CompiledPtx. The same content loads once."""
        read = Image.of(image, name)
        module = self._modules.get(read.digest)
        if module is None:
            if self.ledger.captures:
                raise CaptureError(
                    f"load_module: {read.name} is not loaded and a capture runs; load it before"
                )
            with self._lock:
                module = self._modules.get(read.digest)
                if module is None:
                    module = CudaModule(self, read)
                    self._modules[read.digest] = module
        module.add_signatures(signatures or {})
        return module

    def forget_module(self, module: CudaModule) -> None:
        """Take a closed module out of the cache."""
        with self._lock:
            if self._modules.get(module.image.digest) is module:
                del self._modules[module.image.digest]

    def enable_peer_access(self, other: CudaContext) -> None:
        """Let kernels and copies of this context reach `other`'s memory, pools included."""
        try:
            self.call("cuCtxEnablePeerAccess", other._handle, 0, on=f"{self!r} to {other!r}")
        except DriverError as error:
            if error.code != PEER_ACCESS_ALREADY_ENABLED:
                raise
        if other.has_async_alloc:
            other.mem_pool().allow_access(self.ordinal)
        self._peers.add(other)

    def reaches(self, other: CudaContext) -> bool:
        """Whether kernels here may take memory of `other`."""
        return other is self or other in self._peers

    # closing

    def give_back(self, owned: Owned) -> None:
        """Close a handle of this context; of a closed, lost or forked context it is gone already."""
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
        if self.ledger.attention:
            self.attend("settle")

    def close(self) -> None:
        """Wait for the context's work, give back all that it has given out, then itself; twice is once.

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
            self._modules.clear()
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


def _destroy_orphans(api: Api) -> None:
    """Destroy the created contexts that were dropped without close()."""
    while api.orphans:
        ledger, handle = api.orphans.pop()
        if ledger.state != "closed" and not ledger.is_forked:
            ledger.state = "closed"
            with suppress(DriverError):  # of a lost context; nobody is left to tell
                api.call("cuCtxDestroy", handle, on=f"context {int(handle):#x}")
