"""Launches on the virtual device: arguments, faults, findings, counts."""

from __future__ import annotations

import ctypes

import pytest
from helpers.virtual_bench import Bench, R

from pyferrum_kv.testing.ptx import HEADER, STORE, VECTOR_ADD

POINTER, INT = ctypes.c_void_p, ctypes.c_uint32


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.parametrize(
    ("values", "types", "message"),
    [
        ((0,), (POINTER,), "store takes 2 arguments; got 1 values"),
        ((0, 1, 2), (POINTER, INT, INT), "store takes 2 arguments; got 3 values"),
        ((0, 1), (POINTER, ctypes.c_long), "argument 1 of store is c_long (8 bytes)"),
        ((0, 1), (INT, INT), "argument 0 of store is c_uint (4 bytes)"),
    ],
)
def test_wrong_arguments_are_named(bench, values, types, message):
    found = bench.function(STORE, "store")
    assert bench.launch(found, values, types) == R.CUDA_ERROR_INVALID_VALUE
    assert message in bench.driver.last_error


def test_no_arguments_and_too_few_addresses_are_refused(bench):
    found = bench.function(STORE, "store")
    for given in (None, 0, (ctypes.c_void_p * 1)(8), (ctypes.c_void_p * 2)()):
        status = bench.status("cuLaunchKernel", found, 1, 1, 1, 1, 1, 1, 0, 0, given, 0)
        assert status == R.CUDA_ERROR_INVALID_VALUE


def test_arguments_as_objects_and_as_a_ready_block(bench):
    found, pointer = bench.function(STORE, "store"), bench.filled(16)
    assert bench.launch(found, (pointer, ctypes.c_uint32(5)), (None, None)) == R.CUDA_SUCCESS
    assert bench.bytes_at(pointer, 4) == b"\5\0\0\0"
    block = ctypes.create_string_buffer(int(pointer).to_bytes(8, "little") + b"\6\0\0\0", 12)
    size = ctypes.c_size_t(12)
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(block), 2, ctypes.addressof(size), 0)
    address = ctypes.addressof(extra)
    bench.do("cuLaunchKernel", found, 1, 1, 1, 1, 1, 1, 0, 0, None, address)
    assert bench.bytes_at(pointer, 4) == b"\6\0\0\0"


# faults and findings


def test_a_wild_store_is_sticky_and_says_where(bench):
    found = bench.function(STORE, "store")
    assert bench.launch(found, (0x10, 1), (POINTER, INT)) == R.CUDA_SUCCESS
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_ILLEGAL_ADDRESS
    assert "st.global.u32 [%rd1], %r1" in bench.driver.last_error
    assert bench.launch(found, (0x10, 1), (POINTER, INT)) == R.CUDA_ERROR_ILLEGAL_ADDRESS
    assert len(bench.driver.reports) == 1


def test_a_misaligned_store_is_its_own_error(bench):
    found, pointer = bench.function(STORE, "store"), bench.filled(16)
    bench.launch(found, (int(pointer) + 2, 1), (POINTER, INT))
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_MISALIGNED_ADDRESS


def test_use_after_free_is_an_illegal_address(bench):
    found, pointer = bench.function(STORE, "store"), bench.filled(16)
    bench.do("cuMemFree", pointer)
    bench.launch(found, (int(pointer), 1), (POINTER, INT))
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_ILLEGAL_ADDRESS
    assert bench.driver.reports[0].kind == "use_after_free"


@pytest.mark.parametrize("on_report", ["error", "collect"])
def test_a_finding_that_hardware_would_miss(on_report):
    bench = Bench(on_report=on_report)
    found, pointer = bench.function(STORE, "multiply"), bench.do("cuMemAlloc", 16)
    bench.launch(found, (int(pointer), 2), (POINTER, INT))
    wanted = R.CUDA_ERROR_LAUNCH_FAILED if on_report == "error" else R.CUDA_SUCCESS
    assert bench.status("cuCtxSynchronize") == wanted
    assert [report.kind for report in bench.driver.reports] == ["uninitialized"]


def test_a_kernel_that_never_ends_is_stopped():
    bench = Bench(budget=1000)
    text = HEADER + ".visible .entry spin()\n{\nAGAIN:\n    bra AGAIN;\n}\n"
    found = bench.function(text, "spin")
    bench.do("cuLaunchKernel", found, 1, 1, 1, 32, 1, 1, 0, 0, None, 0)
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_LAUNCH_TIMEOUT


def test_kernels_on_two_streams_that_share_bytes(bench):
    found, pointer = bench.function(STORE, "multiply"), bench.filled(16)
    for _ in range(2):
        bench.launch(found, (int(pointer), 2), (POINTER, INT), stream=bench.stream())
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_LAUNCH_FAILED
    assert "multiply" in bench.driver.last_error
    assert bench.driver.reports[0].kind == "stream_hazard"


def test_kernels_on_two_streams_that_share_no_bytes(bench):
    found, pointer = bench.function(STORE, "multiply"), bench.filled(16)
    for offset in (0, 8):
        address = int(pointer) + offset
        stream = bench.stream()
        bench.launch(found, (address, 2), (POINTER, INT), stream=stream, block=2)
    bench.do("cuCtxSynchronize")


def test_a_kernel_reaches_pinned_and_managed_memory(bench):
    found = bench.function(STORE, "store")
    pinned, managed = bench.do("cuMemHostAlloc", 16, 2), bench.do("cuMemAllocManaged", 16, 1)
    mapped = bench.do("cuMemHostGetDevicePointer", pinned, 0)
    for address in (int(mapped), int(managed)):
        bench.launch(found, (address, 0x01020304), (POINTER, INT))
    bench.do("cuCtxSynchronize")
    for address in (pinned, int(managed)):
        assert ctypes.string_at(address, 4) == b"\4\3\2\1"


# what was counted


def test_launches_are_recorded_and_counted():
    bench, n = Bench(metrics=True), 256
    pointers = [bench.filled(4 * n) for _ in range(3)]
    found = bench.function(VECTOR_ADD, "vector_add")
    values = (*(int(p) for p in pointers), n)
    bench.launch(found, values, (POINTER,) * 3 + (INT,), grid=2, block=128)
    bench.do("cuCtxSynchronize")
    (launched,) = bench.driver.launches
    assert (launched.kernel, launched.grid, launched.block) == (
        "vector_add",
        (2, 1, 1),
        (128, 1, 1),
    )
    assert bench.driver.metrics is launched
    assert launched.facts.requests == 3 * n // 32
    assert launched.facts.sectors == 3 * n * 4 // 32
    assert launched.facts.global_bytes == 3 * n * 4
