"""Memory calls of the virtual device: what the host gives, what an address is, pools."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from helpers.virtual_bench import Bench, R


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.parametrize(
    "source",
    [
        bytes(range(32)),
        bytearray(range(32)),
        np.arange(32, dtype=np.uint8),
        np.asfortranarray(np.arange(32, dtype=np.uint8).reshape(4, 8).T).T,
        memoryview(bytes(range(32))),
        (ctypes.c_uint8 * 32)(*range(32)),
        np.frombuffer(bytes(range(32)), np.float16),
    ],
    ids=lambda source: type(source).__name__,
)
def test_host_memory_comes_in_every_form_that_the_bindings_take(bench, source):
    pointer = bench.filled(32)
    bench.do("cuMemcpyHtoD", pointer, source, 32)
    assert bench.bytes_at(pointer, 32) == bytes(range(32))


def test_a_host_buffer_that_is_too_short_is_refused(bench):
    pointer = bench.filled(32)
    assert bench.status("cuMemcpyHtoD", pointer, bytes(31), 32) == R.CUDA_ERROR_INVALID_VALUE
    assert "holds 31" in bench.driver.last_error
    assert bench.status("cuMemcpyDtoH", bytearray(31), pointer, 32) == R.CUDA_ERROR_INVALID_VALUE


def test_a_strided_host_buffer_is_refused(bench):
    with pytest.raises(BufferError):
        bench.do("cuMemcpyHtoD", bench.filled(32), np.zeros((8, 8), np.uint8)[:, ::2], 32)


def test_a_copy_past_its_allocation_says_where(bench):
    pointer = bench.filled(100)
    past = bench.driver.CUdeviceptr(int(pointer) + 96)
    assert bench.status("cuMemsetD8", past, 0, 8) == R.CUDA_ERROR_INVALID_VALUE
    assert "100 bytes" in bench.driver.last_error


def test_a_freed_address_is_refused(bench):
    pointer = bench.filled(100)
    bench.do("cuMemFree", pointer)
    assert bench.status("cuMemsetD8", pointer, 0, 8) == R.CUDA_ERROR_INVALID_VALUE
    assert "freed" in bench.driver.last_error


def test_unaligned_and_oversized_fills_are_refused(bench):
    pointer = bench.filled(64)
    odd = bench.driver.CUdeviceptr(int(pointer) + 1)
    assert bench.status("cuMemsetD32", odd, 0, 4) == R.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(OverflowError):
        bench.do("cuMemsetD8", pointer, 256, 4)


def test_empty_copies_do_nothing(bench):
    bench.do("cuMemcpyHtoD", bench.driver.CUdeviceptr(0), b"", 0)
    bench.do("cuMemsetD32", bench.driver.CUdeviceptr(0), 0, 0)


def test_unified_copies_find_the_direction(bench):
    pointer, other = bench.filled(16), bench.filled(16)
    host = np.arange(16, dtype=np.uint8)
    back = np.zeros(16, np.uint8)
    bench.do("cuMemcpy", pointer, host.ctypes.data, 16)
    bench.do("cuMemcpy", other, pointer, 16)
    bench.do("cuMemcpy", back.ctypes.data, other, 16)
    assert (back == host).all()


def test_registered_memory_counts_as_page_locked(bench):
    host = np.zeros(64, np.uint8)
    bench.do("cuMemHostRegister", host.ctypes.data, 64, 0)
    pointer, stream = bench.filled(64, 1), bench.stream()
    bench.do("cuMemcpyDtoHAsync", host.ctypes.data, pointer, 64, stream)
    assert (host == 0xA5).all()
    bench.do("cuStreamSynchronize", stream)
    assert (host == 1).all()
    again = bench.status("cuMemHostRegister", host.ctypes.data, 64, 0)
    assert again == R.CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
    bench.do("cuMemHostUnregister", host.ctypes.data)
    gone = bench.status("cuMemHostUnregister", host.ctypes.data)
    assert gone == R.CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED


def test_kinds_of_memory_know_themselves(bench):
    kinds = bench.driver.CUpointer_attribute
    device, managed = bench.do("cuMemAlloc", 16), bench.do("cuMemAllocManaged", 16, 1)
    pinned = bench.do("cuMemHostAlloc", 16, 0)

    def get(name, address):
        attribute = getattr(kinds, f"CU_POINTER_ATTRIBUTE_{name}")
        return bench.do("cuPointerGetAttribute", attribute, int(address))

    assert [int(get("MEMORY_TYPE", a)) for a in (device, managed, pinned)] == [2, 2, 1]
    assert [get("IS_MANAGED", a) for a in (device, managed, pinned)] == [False, True, False]
    assert get("RANGE_SIZE", int(device) + 3) == 16
    host = kinds.CU_POINTER_ATTRIBUTE_HOST_POINTER
    assert bench.status("cuPointerGetAttribute", host, device) == R.CUDA_ERROR_INVALID_VALUE
    several = [kinds.CU_POINTER_ATTRIBUTE_IS_MANAGED, kinds.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL]
    assert bench.do("cuPointerGetAttributes", 2, several, managed) == [True, 0]
    assert bench.do("cuPointerGetAttributes", 2, several, 0x10) == [False, -2]


def test_a_pool_keeps_what_its_threshold_allows(bench):
    kinds = bench.driver.CUmemPool_attribute
    pool = bench.do("cuDeviceGetDefaultMemPool", bench.device)
    stream = bench.stream()

    def reserved():
        kind = kinds.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
        return int(bench.do("cuMemPoolGetAttribute", pool, kind))

    def use():
        bench.do("cuMemFreeAsync", bench.do("cuMemAllocAsync", 4096, stream), stream)
        bench.do("cuCtxSynchronize")

    use()
    assert reserved() == 0
    threshold = kinds.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
    bench.do("cuMemPoolSetAttribute", pool, threshold, bench.driver.cuuint64_t(1 << 20))
    use()
    assert reserved() == 4096
    bench.do("cuMemPoolTrimTo", pool, 0)
    assert reserved() == 0


def test_a_pool_of_its_own(bench):
    driver = bench.driver
    props = driver.CUmemPoolProps()
    props.allocType = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    props.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    pool, stream = bench.do("cuMemPoolCreate", props), bench.stream()
    pointer = bench.do("cuMemAllocFromPoolAsync", 64, pool, stream)
    kind = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE
    assert int(bench.do("cuPointerGetAttribute", kind, pointer)) == int(pool)
    bench.do("cuMemFreeAsync", pointer, stream)
    bench.do("cuMemPoolDestroy", pool)
    default = bench.do("cuDeviceGetDefaultMemPool", bench.device)
    assert bench.status("cuMemPoolDestroy", default) == R.CUDA_ERROR_INVALID_VALUE


def test_a_stream_ordered_free_happens_once(bench):
    stream = bench.stream()
    pointer = bench.do("cuMemAllocAsync", 64, stream)
    bench.do("cuMemFreeAsync", pointer, stream)
    assert bench.status("cuMemFreeAsync", pointer, stream) == R.CUDA_ERROR_INVALID_VALUE
