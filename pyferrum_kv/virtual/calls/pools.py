"""Stream-ordered allocation and its pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.memory import MemoryCalls
from pyferrum_kv.virtual.objects import Allocation, Device, Pool, Stream
from pyferrum_kv.virtual.order import Access, Op
from pyferrum_kv.virtual.status import Refused

ATTRIBUTE = real.CUmemPool_attribute


class PoolCalls(MemoryCalls):
    """cuMemAllocAsync, cuMemFreeAsync, cuMemPool*, cuDevice*MemPool."""

    @driver_call(1)
    def cuMemAllocAsync(self, bytesize: int, hStream: Any) -> Any:
        stream = self._stream(hStream)
        return self._allocate(bytesize, self._current_pool(stream.context.device), stream)

    @driver_call(1)
    def cuMemAllocFromPoolAsync(self, bytesize: int, pool: Any, hStream: Any) -> Any:
        return self._allocate(bytesize, self.machine.lookup(pool, Pool), self._stream(hStream))

    def _allocate(self, num_bytes: int, pool: Pool, stream: Stream) -> Any:
        """The address is known at once; the bytes exist from here on in the order of `stream`."""
        context = stream.context
        taken = self._take(context, num_bytes, "device", pool=pool)
        if stream.capture:
            stream.capture.graph.allocations.append(taken)
        self.submit(stream, _touch("alloc", "cuMemAllocAsync", taken))
        return real.CUdeviceptr(taken.address)

    @driver_call()
    def cuMemFreeAsync(self, dptr: Any, hStream: Any) -> None:
        stream = self._stream(hStream)
        taken = self._starting_at(int(dptr), ("device", "managed"))
        if taken.freed:
            raise Refused("INVALID_VALUE", f"{taken.address:#x} is freed already")
        if stream.capture:
            # A graph allocates and frees at every launch: the address stays its own.
            self.submit(stream, _touch("free", "cuMemFreeAsync", taken))
            return
        taken.freed = True
        touch = _touch("free", "cuMemFreeAsync", taken)

        def run() -> Sequence[Access]:
            self._give(taken)
            return touch.run()

        self.submit(stream, Op("free", touch.label, run))

    @driver_call(1, needs="init")
    def cuDeviceGetDefaultMemPool(self, dev: Any) -> Any:
        return real.CUmemoryPool(self._default_pool(self._device(dev)).handle)

    @driver_call(1, needs="init")
    def cuDeviceGetMemPool(self, dev: Any) -> Any:
        return real.CUmemoryPool(self._current_pool(self._device(dev)).handle)

    @driver_call(needs="init")
    def cuDeviceSetMemPool(self, dev: Any, pool: Any) -> None:
        device, chosen = self._device(dev), self.machine.lookup(pool, Pool)
        if chosen.device is not device:
            raise Refused("INVALID_VALUE", "the pool is another device's")
        device.pool = chosen

    @driver_call(1, needs="init")
    def cuMemPoolCreate(self, poolProps: Any) -> Any:
        pinned = real.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        on_device = real.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        if poolProps.allocType != pinned or poolProps.location.type != on_device:
            raise Refused("NOT_SUPPORTED", "only pools of pinned device memory are emulated")
        return real.CUmemoryPool(self._new_pool(self._device(poolProps.location.id)).handle)

    @driver_call(needs="init")
    def cuMemPoolDestroy(self, pool: Any) -> None:
        """What was allocated from it stays; the default pool cannot be destroyed."""
        found = self.machine.lookup(pool, Pool)
        if found is found.device.default_pool:
            raise Refused("INVALID_VALUE", "the default pool cannot be destroyed")
        if found.device.pool is found:
            found.device.pool = None
        del self.machine.handles[found.handle]

    @driver_call(needs="init")
    def cuMemPoolTrimTo(self, pool: Any, minBytesToKeep: int) -> None:
        self.machine.lookup(pool, Pool).trim(minBytesToKeep)

    @driver_call(1, needs="init")
    def cuMemPoolGetAttribute(self, pool: Any, attr: Any) -> Any:
        found = self.machine.lookup(pool, Pool)
        counters = {
            ATTRIBUTE.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: found.threshold,
            ATTRIBUTE.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: found.reserved,
            ATTRIBUTE.CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: found.reserved_high,
            ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_CURRENT: found.used,
            ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_HIGH: found.used_high,
        }
        if attr in counters:
            return real.cuuint64_t(counters[attr])
        if attr in REUSE:
            return found.switches.get(int(attr), 1)
        raise Refused("NOT_SUPPORTED", f"{attr!r}: not emulated by the virtual device")

    @driver_call(needs="init")
    def cuMemPoolSetAttribute(self, pool: Any, attr: Any, value: Any) -> None:
        found, number = self.machine.lookup(pool, Pool), int(value)
        if attr == ATTRIBUTE.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
            found.threshold = number
        elif attr in REUSE:
            found.switches[int(attr)] = number
        elif attr == ATTRIBUTE.CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH and number == 0:
            found.reserved_high = found.reserved
        elif attr == ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_HIGH and number == 0:
            found.used_high = found.used
        else:
            raise Refused("INVALID_VALUE", f"{attr!r} cannot be set to {number}")

    @driver_call(needs="init")
    def cuMemPoolSetAccess(self, pool: Any, map: Any, count: int) -> None:
        self.machine.lookup(pool, Pool)

    def _default_pool(self, device: Device) -> Pool:
        if device.default_pool is None:
            device.default_pool = self._new_pool(device)
        return device.default_pool

    def _current_pool(self, device: Device) -> Pool:
        return device.pool or self._default_pool(device)

    def _new_pool(self, device: Device) -> Pool:
        pool = Pool(self.machine.new_handle(), device)
        self.machine.register(pool)
        return pool


REUSE = (
    ATTRIBUTE.CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES,
    ATTRIBUTE.CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC,
    ATTRIBUTE.CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES,
)


def _touch(kind: str, call: str, taken: Allocation) -> Op:
    """An operation that only lays claim to the whole allocation."""
    accesses = [Access(taken.address, taken.address + taken.num_bytes, True)]
    return Op(kind, f"{call} of {taken.num_bytes} bytes", lambda: accesses)
