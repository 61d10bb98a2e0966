"""Contexts of the virtual device: sticky errors, destruction, leaks, several devices, fork."""

from __future__ import annotations

import os

import pytest
from helpers.virtual_bench import Bench, R

from pyferrum_kv.virtual import VirtualDriver


def lose(bench):
    """End the context by a stream hazard, the simplest sticky error without a kernel."""
    pointer = bench.filled(64, 1)
    for value in (1, 2):
        bench.do("cuMemsetD8Async", pointer, value, 64, bench.stream())
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_LAUNCH_FAILED


def test_a_sticky_error_repeats_until_the_context_is_reset():
    bench = Bench()
    lose(bench)
    for call, *arguments in (
        ("cuMemAlloc", 16),
        ("cuStreamCreate", 1),
        ("cuMemGetInfo",),
        ("cuEventCreate", 0),
        ("cuCtxSynchronize",),
    ):
        assert bench.status(call, *arguments) == R.CUDA_ERROR_LAUNCH_FAILED
    bench.do("cuDevicePrimaryCtxReset", bench.device)
    bench.do("cuDevicePrimaryCtxRetain", bench.device)
    bench.do("cuMemFree", bench.do("cuMemAlloc", 16))


def test_a_sticky_error_stays_in_its_context():
    bench = Bench(device_count=2)
    other = bench.do("cuDevicePrimaryCtxRetain", bench.do("cuDeviceGet", 1))
    lose(bench)
    bench.do("cuCtxPushCurrent", other)
    bench.do("cuMemFree", bench.do("cuMemAlloc", 16))


def test_collecting_leaves_the_context_usable():
    bench = Bench(on_report="collect")
    pointer = bench.filled(64, 1)
    for value in (1, 2):
        bench.do("cuMemsetD8Async", pointer, value, 64, bench.stream())
    bench.do("cuCtxSynchronize")
    assert len(bench.driver.reports) == 1
    bench.do("cuMemFree", pointer)


def test_a_released_primary_context_takes_everything_with_it():
    bench = Bench()
    bench.filled(64)
    stream, event = bench.stream(), bench.do("cuEventCreate", 0)
    bench.do("cuDevicePrimaryCtxRelease", bench.device)
    assert bench.status("cuMemAlloc", 16) == R.CUDA_ERROR_CONTEXT_IS_DESTROYED
    assert bench.do("cuDevicePrimaryCtxGetState", bench.device) == (0, 0)
    again = bench.do("cuDevicePrimaryCtxRetain", bench.device)
    assert int(again) == int(bench.context)
    free, total = bench.do("cuMemGetInfo")
    assert free == total
    assert bench.status("cuStreamSynchronize", stream) == R.CUDA_ERROR_INVALID_HANDLE
    assert bench.status("cuEventQuery", event) == R.CUDA_ERROR_INVALID_HANDLE


def test_destroyed_handles_are_invalid():
    bench = Bench()
    stream, event = bench.stream(), bench.do("cuEventCreate", 0)
    bench.do("cuStreamDestroy", stream)
    bench.do("cuEventDestroy", event)
    for call, handle in (
        ("cuStreamSynchronize", stream),
        ("cuStreamDestroy", stream),
        ("cuEventRecord", event),
        ("cuEventDestroy", event),
    ):
        arguments = (handle, bench.stream()) if call == "cuEventRecord" else (handle,)
        assert bench.status(call, *arguments) == R.CUDA_ERROR_INVALID_HANDLE
    assert bench.status("cuCtxSetCurrent", stream) == R.CUDA_ERROR_INVALID_CONTEXT


def test_objects_of_two_contexts_do_not_mix():
    bench = Bench()
    event = bench.do("cuEventCreate", 0)
    is_12 = hasattr(bench.driver, "cuCtxCreate_v4")
    bench.do("cuCtxCreate", *((0, bench.device) if is_12 else (None, 0, bench.device)))
    assert bench.status("cuEventRecord", event, bench.stream()) == R.CUDA_ERROR_INVALID_HANDLE


def test_leaks_are_reported_when_asked_for():
    bench = Bench(report_leaks=True)
    bench.do("cuMemAlloc", 48)
    bench.do("cuMemFree", bench.do("cuMemAlloc", 16))
    bench.driver.finish()
    assert [(r.kind, "48 bytes" in r.detail) for r in bench.driver.reports] == [("leak", True)]
    silent = Bench()
    silent.do("cuMemAlloc", 48)
    silent.driver.finish()
    assert not silent.driver.reports


def test_ten_thousand_allocations_leave_memory_where_it_was():
    bench = Bench()
    before = bench.do("cuMemGetInfo")
    stream = bench.stream()
    for _ in range(2000):
        bench.do("cuMemFree", bench.do("cuMemAlloc", 1000))
        bench.do("cuMemFreeAsync", bench.do("cuMemAllocAsync", 1000, stream), stream)
    bench.do("cuCtxSynchronize")
    assert bench.do("cuMemGetInfo") == before


def test_memory_that_is_not_there_is_out_of_memory():
    bench = Bench(memory=1 << 20)
    assert bench.status("cuMemAlloc", 2 << 20) == R.CUDA_ERROR_OUT_OF_MEMORY
    assert "2097152 bytes wanted" in bench.driver.last_error


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_no_driver():
    bench = Bench()
    child = os.fork()
    if child == 0:
        refused = bench.driver.cuMemAlloc(16)[0] == R.CUDA_ERROR_NOT_INITIALIZED
        os._exit(0 if refused else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_peer_access_between_two_devices():
    bench = Bench(device_count=2)
    second = bench.do("cuDeviceGet", 1)
    other = bench.do("cuDevicePrimaryCtxRetain", second)
    assert bench.do("cuDeviceCanAccessPeer", bench.device, second) == 1
    bench.do("cuCtxEnablePeerAccess", other, 0)
    again = bench.status("cuCtxEnablePeerAccess", other, 0)
    assert again == R.CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
    bench.do("cuCtxDisablePeerAccess", other)
    not_enabled = bench.status("cuCtxDisablePeerAccess", other)
    assert not_enabled == R.CUDA_ERROR_PEER_ACCESS_NOT_ENABLED
    assert bench.do("cuDeviceGetName", 64, second) == b"pyferrum virtual sm_90 (CPU)"


def test_the_multiprocessors_and_the_capability_can_be_chosen():
    driver = VirtualDriver(cc=(8, 0), sm_count=3)
    driver.cuInit(0)
    kinds = driver.CUdevice_attribute
    count = driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0)
    major = driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0)
    optin = kinds.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    assert (count[1], major[1]) == (3, 8)
    assert driver.cuDeviceGetAttribute(optin, 0)[1] == 166912
