"""Memory: device, managed, page-locked; what an address is."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.submit import SubmitCalls
from pyferrum_kv.virtual.host import host_buffer
from pyferrum_kv.virtual.memory import OutOfDeviceMemory
from pyferrum_kv.virtual.objects import Allocation, Context, Pool
from pyferrum_kv.virtual.status import Refused

HOST_KINDS = ("pinned", "managed")
DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP


class MemoryCalls(SubmitCalls):
    """cuMemAlloc*, cuMemFree*, cuMemHost*, cuMemGet*, cuPointerGetAttribute."""

    def _take(
        self,
        context: Context,
        num_bytes: int,
        kind: str,
        *,
        pool: Pool | None = None,
        flags: int = 0,
    ) -> Allocation:
        """Allocate on the context's device; what the host can write counts as initialised."""
        if num_bytes <= 0:
            raise Refused("INVALID_VALUE", f"bytesize is {num_bytes}; wanted at least 1")
        device = context.device
        try:
            address = device.memory.alloc(num_bytes, label=kind, init=kind in HOST_KINDS)
        except OutOfDeviceMemory as full:
            raise Refused("OUT_OF_MEMORY", str(full)) from None
        allocation = Allocation(address, num_bytes, context, kind, pool, flags)
        device.allocations[address] = allocation
        self.machine.history.forget(address, address + num_bytes)
        if pool:
            pool.took(num_bytes)
        return allocation

    def _give(self, allocation: Allocation) -> None:
        self.machine.give(allocation)

    def _starting_at(self, address: int, kinds: tuple[str, ...]) -> Allocation:
        allocation = self._allocation(address)
        if allocation is None or allocation.address != address or allocation.kind not in kinds:
            raise Refused("INVALID_VALUE", f"{address:#x} is not the start of {kinds[0]} memory")
        return allocation

    @driver_call(1)
    def cuMemAlloc(self, bytesize: int) -> Any:
        self._unsafe_while_capturing()
        taken = self._take(self.machine.context(), bytesize, "device")
        return real.CUdeviceptr(taken.address)

    @driver_call(2)
    def cuMemAllocPitch(self, WidthInBytes: int, Height: int, ElementSizeBytes: int) -> Any:
        self._unsafe_while_capturing()
        pitch = -(-WidthInBytes // 512) * 512
        taken = self._take(self.machine.context(), pitch * Height, "device")
        return real.CUdeviceptr(taken.address), pitch

    @driver_call(1)
    def cuMemAllocManaged(self, bytesize: int, flags: int) -> Any:
        if flags not in (1, 2):
            raise Refused("INVALID_VALUE", f"flags is {flags}; wanted attach global or host")
        self._unsafe_while_capturing()
        taken = self._take(self.machine.context(), bytesize, "managed", flags=flags)
        return real.CUdeviceptr(taken.address)

    @driver_call()
    def cuMemFree(self, dptr: Any) -> None:
        """Waits for the device, as the driver does."""
        self._unsafe_while_capturing()
        if int(dptr) == 0:
            return
        allocation = self._starting_at(int(dptr), ("device", "managed"))
        self.machine.synchronize(self.machine.context())
        self._give(allocation)

    @driver_call(1)
    def cuMemAllocHost(self, bytesize: int) -> int:
        self._unsafe_while_capturing()
        return self._take(self.machine.context(), bytesize, "pinned").address

    @driver_call(1)
    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> int:
        if Flags & ~7:
            raise Refused("INVALID_VALUE", f"Flags is {Flags:#x}")
        self._unsafe_while_capturing()
        return self._take(self.machine.context(), bytesize, "pinned", flags=Flags).address

    @driver_call()
    def cuMemFreeHost(self, p: Any) -> None:
        address = host_buffer(p, 0).address
        if address == 0:
            return
        allocation = self._starting_at(address, ("pinned",))
        self.machine.synchronize(self.machine.context())
        self._give(allocation)

    @driver_call(1)
    def cuMemHostGetDevicePointer(self, p: Any, Flags: int) -> Any:
        address = host_buffer(p, 0).address
        allocation = self._allocation(address)
        if allocation is None or allocation.kind != "pinned":
            registered = any(r.covers(address) for r in self.machine.registered.values())
            name = "NOT_SUPPORTED" if registered else "INVALID_VALUE"
            raise Refused(name, f"{address:#x} is not memory that cuMemHostAlloc gave")
        return real.CUdeviceptr(address)

    @driver_call(1)
    def cuMemHostGetFlags(self, p: Any) -> int:
        allocation = self._allocation(host_buffer(p, 0).address)
        if allocation is None or allocation.kind != "pinned":
            raise Refused("INVALID_VALUE", "not page-locked by cuMemHostAlloc")
        return allocation.flags | DEVICE_MAP

    @driver_call()
    def cuMemHostRegister(self, p: Any, bytesize: int, Flags: int) -> None:
        buffer = host_buffer(p, bytesize)
        if not buffer.address or bytesize <= 0:
            raise Refused("INVALID_VALUE", f"{bytesize} bytes at {buffer.address:#x}")
        if any(r.covers(buffer.address) for r in self.machine.registered.values()):
            raise Refused("HOST_MEMORY_ALREADY_REGISTERED")
        self.machine.registered[buffer.address] = Allocation(
            buffer.address, bytesize, None, "registered", flags=Flags, owner=buffer.owner
        )

    @driver_call()
    def cuMemHostUnregister(self, p: Any) -> None:
        if self.machine.registered.pop(host_buffer(p, 0).address, None) is None:
            raise Refused("HOST_MEMORY_NOT_REGISTERED")

    @driver_call(2)
    def cuMemGetInfo(self) -> tuple[int, int]:
        device = self.machine.context().device
        host = sum(a.num_bytes for a in device.allocations.values() if a.kind == "pinned")
        pools = sum(p.reserved - p.used for p in self.machine.pools(device))
        total = device.memory.capacity_bytes
        return total - device.memory.used_bytes + host - pools, total

    @driver_call(2)
    def cuMemGetAddressRange(self, dptr: Any) -> tuple[Any, int]:
        allocation = self._allocation(int(dptr))
        if allocation is None:
            raise Refused("NOT_FOUND", f"{int(dptr):#x} is in no allocation")
        return real.CUdeviceptr(allocation.address), allocation.num_bytes

    @driver_call(1)
    def cuPointerGetAttribute(self, attribute: Any, ptr: Any) -> Any:
        return self._attribute(attribute, int(ptr), strict=True)

    @driver_call(1)
    def cuPointerGetAttributes(self, numAttributes: int, attributes: Any, ptr: Any) -> list[Any]:
        """A pointer that the driver does not know is not an error here: its attributes are null."""
        chosen = list(attributes or ())[:numAttributes]
        return [self._attribute(a, int(ptr), strict=False) for a in chosen]

    def _attribute(self, attribute: Any, address: int, *, strict: bool) -> Any:
        kinds = real.CUpointer_attribute
        found = self._allocation(address)
        if found is None or found.context is None:
            if strict:
                raise Refused("INVALID_VALUE", f"{address:#x} was not allocated by the driver")
            return _null_attribute(attribute)
        on_host = found.kind == "pinned"
        memory_type = real.CUmemorytype
        pool = found.pool.handle if found.pool else 0
        answers: dict[Any, Any] = {
            kinds.CU_POINTER_ATTRIBUTE_CONTEXT: real.CUcontext(found.context.handle),
            kinds.CU_POINTER_ATTRIBUTE_MEMORY_TYPE: memory_type.CU_MEMORYTYPE_HOST
            if on_host
            else memory_type.CU_MEMORYTYPE_DEVICE,
            kinds.CU_POINTER_ATTRIBUTE_DEVICE_POINTER: real.CUdeviceptr(address),
            kinds.CU_POINTER_ATTRIBUTE_HOST_POINTER: address if found.kind != "device" else None,
            kinds.CU_POINTER_ATTRIBUTE_IS_MANAGED: found.kind == "managed",
            kinds.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: found.context.device.ordinal,
            kinds.CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: real.CUdeviceptr(found.address),
            kinds.CU_POINTER_ATTRIBUTE_RANGE_SIZE: found.num_bytes,
            kinds.CU_POINTER_ATTRIBUTE_MAPPED: True,
            kinds.CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: real.CUmemoryPool(pool),
            kinds.CU_POINTER_ATTRIBUTE_BUFFER_ID: found.address >> 8,
        }
        if attribute not in answers:
            raise Refused("NOT_SUPPORTED", f"{attribute!r}: not emulated by the virtual device")
        if answers[attribute] is None and strict:
            raise Refused("INVALID_VALUE", f"{address:#x} is device memory: no host pointer")
        return answers[attribute]


def _null_attribute(attribute: Any) -> Any:
    kinds = real.CUpointer_attribute
    nulls: dict[Any, Any] = {
        kinds.CU_POINTER_ATTRIBUTE_CONTEXT: real.CUcontext(0),
        kinds.CU_POINTER_ATTRIBUTE_MEMORY_TYPE: 0,
        kinds.CU_POINTER_ATTRIBUTE_DEVICE_POINTER: real.CUdeviceptr(0),
        kinds.CU_POINTER_ATTRIBUTE_IS_MANAGED: False,
        kinds.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: -2,
    }
    return nulls.get(attribute)
