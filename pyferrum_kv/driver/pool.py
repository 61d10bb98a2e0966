"""MemoryPool: what stream-ordered allocations come from.

The driver gives a pool's unused memory back at every synchronisation unless its release threshold
says to keep some. stream.alloc() uses a pool of this context's own, so that the threshold set here
changes nothing for other libraries, and close() gives all of it back. The threshold starts at 1
GiB or an eighth of the device, whichever is less: enough that a loop of allocations never reaches
the operating system, and little enough to share a device. `ctx.mem_pool().release_threshold = 0`
keeps nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.errors import ArgumentError, ClosedError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext

_KEEP_BYTES = 1 << 30


class MemoryPool:
    """A pool of device memory on the context's device. Owns its handle."""

    def __init__(self, context: CudaContext, release_threshold: int | None = None) -> None:
        if not context.has_async_alloc:
            raise ArgumentError(f"new_mem_pool: {context.name} has no memory pools")
        self.context = context
        raw, call = context.api.raw, context.api.call
        props = raw.CUmemPoolProps()
        props.allocType = raw.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        props.location = self._location(context.ordinal)
        handle = context.call("cuMemPoolCreate", props, on=f"device {context.ordinal}")
        what = f"memory pool {int(handle):#x}"
        self._what = what
        self._owned = Owned(
            context.ledger, handle, what, lambda: call("cuMemPoolDestroy", handle, on=what)
        )
        if release_threshold is None:
            release_threshold = min(_KEEP_BYTES, context.total_mem // 8)
        self.release_threshold = release_threshold

    def _location(self, ordinal: int) -> Any:
        raw = self.context.api.raw
        location = raw.CUmemLocation()
        location.type = raw.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        location.id = ordinal
        return location

    @property
    def is_closed(self) -> bool:
        return self._owned.is_closed

    @property
    def owned(self) -> Owned:
        """What an allocation holds, so that the pool outlives it."""
        if self._owned.is_closed:
            raise ClosedError(f"{self._what} is closed")
        return self._owned

    @property
    def handle(self) -> int:
        return int(self.owned.value)

    def _get(self, attribute: str) -> int:
        which = self.context.api.enum("CUmemPool_attribute", "CU_MEMPOOL_ATTR_", attribute)
        on = f"{self._what}, {attribute}"
        return int(self.context.call("cuMemPoolGetAttribute", self.owned.value, which, on=on))

    @property
    def release_threshold(self) -> int:
        """Bytes of unused memory that the pool keeps at a synchronisation."""
        return self._get("RELEASE_THRESHOLD")

    @release_threshold.setter
    def release_threshold(self, num_bytes: int) -> None:
        if not 0 <= num_bytes < 1 << 64:
            raise ArgumentError(
                f"release_threshold: num_bytes is {num_bytes}; wanted 0 to 2**64 - 1"
            )
        raw = self.context.api.raw
        which = raw.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        value, on = raw.cuuint64_t(num_bytes), f"{self._what}, RELEASE_THRESHOLD"
        self.context.call("cuMemPoolSetAttribute", self.owned.value, which, value, on=on)

    def trim(self, min_bytes_to_keep: int = 0) -> None:
        """Give unused memory back to the system, down to `min_bytes_to_keep`."""
        on = f"{self._what}, {min_bytes_to_keep}"
        self.context.call("cuMemPoolTrimTo", self.owned.value, min_bytes_to_keep, on=on)

    def stats(self) -> dict[str, int]:
        """Bytes: reserved and used, now and at the highest."""
        return {
            "reserved_bytes": self._get("RESERVED_MEM_CURRENT"),
            "reserved_high_bytes": self._get("RESERVED_MEM_HIGH"),
            "used_bytes": self._get("USED_MEM_CURRENT"),
            "used_high_bytes": self._get("USED_MEM_HIGH"),
        }

    def allow_access(self, ordinal: int) -> None:
        """Let device `ordinal` read and write this pool's memory."""
        raw = self.context.api.raw
        access = raw.CUmemAccessDesc()
        access.location = self._location(ordinal)
        access.flags = raw.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        on = f"{self._what}, device {ordinal}"
        self.context.call("cuMemPoolSetAccess", self.owned.value, [access], 1, on=on)

    def close(self) -> None:
        """Give the pool back; the driver does so when its last allocation is freed."""
        self.context.give_back(self._owned)

    def __enter__(self) -> MemoryPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MemoryPool {self._what} of device {self.context.ordinal}>"
