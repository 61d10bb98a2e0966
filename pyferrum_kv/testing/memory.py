"""Checks of memory: what is written is read, what is freed comes back, what is wrong is refused."""

from __future__ import annotations

import ctypes

import numpy as np

from pyferrum_kv.testing.session import Session


def check_bytes_come_back(s: Session) -> None:
    """Host to device to device to host, synchronous and asynchronous, at odd offsets."""
    d = s.driver
    sent = np.random.default_rng(1).integers(0, 256, 1000).astype(np.uint8)
    a, b = (s.ok(d.cuMemAlloc(1000)) for _ in range(2))
    s.ok(d.cuMemcpyHtoD(a, sent, 1000))
    s.ok(d.cuMemsetD8(b, 0, 1000))
    s.ok(d.cuMemcpyDtoD(d.CUdeviceptr(int(b) + 13), d.CUdeviceptr(int(a) + 7), 900))
    s.settle()
    got = np.zeros(1000, np.uint8)
    s.ok(d.cuMemcpyDtoHAsync(got, b, 1000, s.stream))
    s.synchronize()
    assert (got[13:913] == sent[7:907]).all()
    assert not got[:13].any()
    assert not got[913:].any()
    for pointer in (a, b):
        s.ok(d.cuMemFree(pointer))


def check_fills_of_each_width(s: Session) -> None:
    """cuMemsetD8, D16 and D32 repeat their value, and only as often as told."""
    d = s.driver
    pointer = s.ok(d.cuMemAlloc(96))
    s.ok(d.cuMemsetD8(pointer, 0xEE, 96))
    s.settle()
    s.ok(d.cuMemsetD8Async(pointer, 0x12, 3, s.stream))
    s.ok(d.cuMemsetD16Async(d.CUdeviceptr(int(pointer) + 16), 0x1234, 3, s.stream))
    s.ok(d.cuMemsetD32Async(d.CUdeviceptr(int(pointer) + 32), 0x12345678, 3, s.stream))
    s.synchronize()
    host = np.zeros(96, np.uint8)
    s.ok(d.cuMemcpyDtoH(host, pointer, 96))
    wanted = np.full(96, 0xEE, np.uint8)
    wanted[:3] = 0x12
    wanted[16:22].view(np.uint16)[:] = 0x1234
    wanted[32:44].view(np.uint32)[:] = 0x12345678
    assert (host == wanted).all()
    s.ok(d.cuMemFree(pointer))


def check_memory_is_returned(s: Session) -> None:
    """What is freed is free again."""
    d = s.driver
    before = s.ok(d.cuMemGetInfo())[0]
    size = 32 << 20
    pointers = [s.ok(d.cuMemAlloc(size)) for _ in range(3)]
    assert before - s.ok(d.cuMemGetInfo())[0] >= 3 * size
    for pointer in pointers:
        s.ok(d.cuMemFree(pointer))
    assert before - s.ok(d.cuMemGetInfo())[0] < size


def check_what_an_address_is(s: Session) -> None:
    """Range, kind and owner of device memory; addresses of nothing are refused."""
    d = s.driver
    kinds = d.CUpointer_attribute
    pointer = s.ok(d.cuMemAlloc(640))
    inside = d.CUdeviceptr(int(pointer) + 100)
    base, size = s.ok(d.cuMemGetAddressRange(inside))
    assert (int(base), size) == (int(pointer), 640)
    memory_type = s.ok(d.cuPointerGetAttribute(kinds.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, inside))
    assert int(memory_type) == int(d.CUmemorytype.CU_MEMORYTYPE_DEVICE)
    owner = s.ok(d.cuPointerGetAttribute(kinds.CU_POINTER_ATTRIBUTE_CONTEXT, inside))
    assert int(owner) == int(s.context)
    s.ok(d.cuMemFree(pointer))
    s.refused(d.cuMemAlloc(0), "INVALID_VALUE")
    s.refused(d.cuMemAlloc(1 << 60), "OUT_OF_MEMORY", "INVALID_VALUE")


def check_copies_out_of_bounds_are_refused(s: Session) -> None:
    """A copy that leaves its allocation is INVALID_VALUE, and nothing is lost by it."""
    d = s.driver
    pointer = s.ok(d.cuMemAlloc(2 << 20))
    past = d.CUdeviceptr(int(pointer) + (2 << 20) - 4)
    s.refused(d.cuMemcpyHtoD(d.CUdeviceptr(16), bytes(16), 16), "INVALID_VALUE")
    s.ok(d.cuMemcpyHtoD(past, bytes(4), 4))
    s.ok(d.cuMemFree(pointer))


def check_pinned_memory(s: Session) -> None:
    """Page-locked memory is ordinary host memory, and the device's by its device pointer."""
    d = s.driver
    address = s.ok(d.cuMemHostAlloc(256, 0))
    words = (ctypes.c_uint32 * 64).from_address(int(address))
    words[:] = list(range(64))
    pointer = s.ok(d.cuMemAlloc(256))
    s.ok(d.cuMemcpyHtoDAsync(pointer, int(address), 256, s.stream))
    s.synchronize()
    words[:] = [0] * 64
    s.ok(d.cuMemcpyDtoHAsync(int(address), pointer, 256, s.stream))
    s.synchronize()
    assert list(words) == list(range(64))
    assert int(s.ok(d.cuMemHostGetDevicePointer(int(address), 0))) != 0
    s.ok(d.cuMemFree(pointer))
    s.ok(d.cuMemFreeHost(int(address)))


def check_managed_memory(s: Session) -> None:
    """Managed memory has one address for the host and the device."""
    d = s.driver
    pointer = s.ok(d.cuMemAllocManaged(64, 1))
    s.ok(d.cuMemsetD8(pointer, 9, 64))
    s.ok(d.cuCtxSynchronize())
    assert ctypes.string_at(int(pointer), 64) == b"\t" * 64
    attribute = d.CUpointer_attribute.CU_POINTER_ATTRIBUTE_IS_MANAGED
    assert s.ok(d.cuPointerGetAttribute(attribute, pointer))
    s.ok(d.cuMemFree(pointer))


def check_stream_ordered_memory(s: Session) -> None:
    """Memory of a pool is used in stream order; a release threshold keeps it reserved."""
    d = s.driver
    attribute = d.CUmemPool_attribute
    pool = s.ok(d.cuDeviceGetMemPool(s.device))
    threshold = attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
    s.ok(d.cuMemPoolSetAttribute(pool, threshold, d.cuuint64_t(1 << 30)))
    assert int(s.ok(d.cuMemPoolGetAttribute(pool, threshold))) == 1 << 30
    used = attribute.CU_MEMPOOL_ATTR_USED_MEM_CURRENT
    reserved = attribute.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
    before = int(s.ok(d.cuMemPoolGetAttribute(pool, used)))
    pointer = s.ok(d.cuMemAllocAsync(1 << 20, s.stream))
    s.ok(d.cuMemsetD32Async(pointer, 5, 1 << 18, s.stream))
    host = np.zeros(1 << 18, np.uint32)
    s.ok(d.cuMemcpyDtoHAsync(host, pointer, 1 << 20, s.stream))
    assert int(s.ok(d.cuMemPoolGetAttribute(pool, used))) == before + (1 << 20)
    s.ok(d.cuMemFreeAsync(pointer, s.stream))
    s.synchronize()
    assert (host == 5).all()
    assert int(s.ok(d.cuMemPoolGetAttribute(pool, used))) == before
    assert int(s.ok(d.cuMemPoolGetAttribute(pool, reserved))) >= 1 << 20
    s.ok(d.cuMemPoolSetAttribute(pool, threshold, d.cuuint64_t(0)))
    s.ok(d.cuMemPoolTrimTo(pool, 0))


def check_freeing_what_is_no_allocation(s: Session) -> None:
    """A pointer that was never given out, or lies inside an allocation, cannot be freed."""
    d = s.driver
    pointer = s.ok(d.cuMemAlloc(4096))
    s.refused(d.cuMemFree(d.CUdeviceptr(int(pointer) + 256)), "INVALID_VALUE")
    s.ok(d.cuMemFree(pointer))
    s.refused(d.cuMemFree(pointer), "INVALID_VALUE")


def check_peer_copies(s: Session) -> None:
    """With two devices: bytes go from one to the other."""
    d = s.driver
    if s.ok(d.cuDeviceGetCount()) < 2:
        return
    other_device = s.ok(d.cuDeviceGet(1))
    other = s.ok(d.cuDevicePrimaryCtxRetain(other_device))
    a = s.ok(d.cuMemAlloc(64))
    s.ok(d.cuMemsetD8(a, 3, 64))
    s.ok(d.cuCtxPushCurrent(other))
    b = s.ok(d.cuMemAlloc(64))
    s.ok(d.cuMemcpyPeer(b, other, a, s.context, 64))
    host = bytearray(64)
    s.ok(d.cuMemcpyDtoH(host, b, 64))
    s.ok(d.cuMemFree(b))
    s.ok(d.cuCtxPopCurrent())
    s.ok(d.cuMemFree(a))
    s.ok(d.cuDevicePrimaryCtxRelease(other_device))
    assert host == b"\3" * 64
