"""CudaContext: where everything else comes from.

    ctx = CudaContext.new(0)          # the primary context of device 0, which other libraries share
    stream = ctx.new_stream()

Objects made by a context keep it alive. close() gives back all that the context has given out,
newest first.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pyferrum_kv.driver import binding
from pyferrum_kv.driver.api import Api, open_driver
from pyferrum_kv.driver.bound import BoundContext
from pyferrum_kv.driver.codes import PEER_ACCESS_ALREADY_ENABLED
from pyferrum_kv.driver.device import Device
from pyferrum_kv.driver.event import CudaEvent
from pyferrum_kv.driver.external import ExternalMemory
from pyferrum_kv.driver.image import Image
from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.driver.module import CudaModule
from pyferrum_kv.driver.pinned import PinnedSlice
from pyferrum_kv.driver.pool import MemoryPool
from pyferrum_kv.driver.stream import CudaStream, as_cu_stream
from pyferrum_kv.driver.unified import UnifiedSlice
from pyferrum_kv.errors import ArgumentError, CaptureError, DriverError, WrongContextError

if TYPE_CHECKING:
    from pyferrum_kv.signature import Signature

_LEGACY, _PER_THREAD = 1, 2  # CU_STREAM_LEGACY, CU_STREAM_PER_THREAD; 0 may mean either
_NON_BLOCKING = 1


class CudaContext(BoundContext):
    """A CUDA context of one device: primary, created, or adopted."""

    def __init__(self, device: Device, handle: Any, *, is_primary: bool, owned: bool) -> None:
        """Not called directly: use new(), create(), from_handle() or current()."""
        super().__init__(device, handle, is_primary=is_primary, owned=owned)
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
        """Page-locked host memory. `write_combined`: faster to send, very slow to read here."""
        return PinnedSlice(self, len, dtype, write_combined)

    def alloc_unified(self, len: int, dtype: npt.DTypeLike) -> UnifiedSlice:
        """Managed memory, one address for host and device."""
        return UnifiedSlice(self, len, dtype)

    def import_external_memory(self, fd: int, size: int) -> ExternalMemory:
        """Import memory that another API exported; the driver takes the file `fd` over."""
        return ExternalMemory(self, fd, size)

    def mem_pool(self) -> MemoryPool:
        """The pool that stream.alloc() uses; made at first use, and this context's own."""
        pool = self._pool
        if pool is None or pool.is_closed:
            with self._lock:
                pool = self._pool
                if pool is None or pool.is_closed:
                    pool = self._pool = MemoryPool(self)
        return pool

    def new_mem_pool(self, release_threshold: int | None = None) -> MemoryPool:
        """A pool of its own, for stream.alloc(..., pool=)."""
        return MemoryPool(self, release_threshold)

    def load_module(
        self, image: Any, *, signatures: Mapping[str, Signature] | None = None, name: str = ""
    ) -> CudaModule:
        """Load PTX or a cubin: bytes, text, a Path, a CompiledPtx. One content loads once."""
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

    def close(self) -> None:
        """Wait for the work, give back all that was given out, then the context; twice is once.

        A primary context closes for everybody who got this object from new().
        """
        super().close()
        self._modules.clear()


def _destroy_orphans(api: Api) -> None:
    """Destroy the created contexts that were dropped without close()."""
    while api.orphans:
        ledger, handle = api.orphans.pop()
        if ledger.state != "closed" and not ledger.is_forked:
            ledger.state = "closed"
            with suppress(DriverError):  # of a lost context; nobody is left to tell
                api.call("cuCtxDestroy", handle, on=f"context {int(handle):#x}")
