"""Modules, launches and graphs of the virtual device: what is refused, reported, counted."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from helpers.virtual_bench import Bench, R

from pyferrum_kv.testing.ptx import HEADER, STORE, VECTOR_ADD

POINTER, INT = ctypes.c_void_p, ctypes.c_uint32


def load(bench, text):
    return bench.do("cuModuleLoadData", text.encode() + b"\0")


def function(bench, text, entry):
    return bench.do("cuModuleGetFunction", load(bench, text), entry.encode())


def launch(bench, found, values, types, *, block=1, stream=0, grid=1):
    sizes = (grid, 1, 1, block, 1, 1, 0)
    return bench.status("cuLaunchKernel", found, *sizes, stream, (values, types), 0)


@pytest.fixture
def bench():
    return Bench()


# modules


def test_ptx_that_is_valid_but_not_emulated_is_refused_by_opcode_and_line(bench):
    text = STORE.replace("    st.global.u32 [%rd1], %r1;", "    wgmma.fence.sync.aligned;")
    line = text[: text.index("wgmma")].count("\n") + 1
    module = load(bench, text)
    assert bench.status("cuModuleGetFunction", module, b"store") == R.CUDA_ERROR_NOT_SUPPORTED
    assert f"line {line}: wgmma.fence.sync.aligned" in bench.driver.last_error
    bench.do("cuModuleGetFunction", module, b"multiply")


@pytest.mark.parametrize("magic", [b"\x7fELF", b"\x50\xed\x55\xba"])
def test_machine_code_is_refused_as_such(bench, magic):
    assert bench.status("cuModuleLoadData", magic + bytes(60)) == R.CUDA_ERROR_NOT_SUPPORTED
    assert "machine code is not emulated" in bench.driver.last_error


@pytest.mark.parametrize(
    ("target", "cc", "loads"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (9, 0), True),
        ("sm_90", (8, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_80a", (9, 0), False),
    ],
)
def test_the_target_must_suit_the_device(target, cc, loads):
    bench = Bench(cc=cc)
    text = HEADER.replace("sm_80", target).encode() + b"\0"
    wanted = R.CUDA_SUCCESS if loads else R.CUDA_ERROR_INVALID_PTX
    assert bench.status("cuModuleLoadData", text) == wanted


@pytest.mark.parametrize(
    ("version", "driver_version", "loads"),
    [("8.0", 12000, True), ("8.1", 12000, False), ("8.8", 12090, True), ("9.0", 12090, False)],
)
def test_the_language_must_be_the_drivers(version, driver_version, loads):
    bench = Bench(driver_version=driver_version)
    text = HEADER.replace("8.0", version).encode() + b"\0"
    wanted = R.CUDA_SUCCESS if loads else R.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    assert bench.status("cuModuleLoadData", text) == wanted


def test_an_image_may_be_an_address(bench):
    held = ctypes.create_string_buffer(STORE.encode())
    bench.do("cuModuleUnload", bench.do("cuModuleLoadData", ctypes.addressof(held)))


def test_the_info_log_and_an_empty_error_log(bench):
    options = bench.driver.CUjit_option
    info, error = bytearray(b"\xee" * 64), bytearray(b"\xee" * 64)
    chosen = [
        options.CU_JIT_INFO_LOG_BUFFER,
        options.CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        options.CU_JIT_ERROR_LOG_BUFFER,
        options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ]
    bench.do("cuModuleLoadDataEx", STORE.encode() + b"\0", 4, chosen, [info, 64, error, 64])
    assert info.split(b"\0")[0] == b"2 entries"
    assert error[0] == 0


def test_an_unloaded_module_takes_its_functions_and_variables_along(bench):
    free = bench.do("cuMemGetInfo")
    module = load(bench, STORE)
    found = bench.do("cuModuleGetFunction", module, b"store")
    bench.do("cuModuleUnload", module)
    assert launch(bench, found, (0, 0), (POINTER, INT)) == R.CUDA_ERROR_INVALID_HANDLE
    assert bench.status("cuModuleUnload", module) == R.CUDA_ERROR_INVALID_HANDLE
    assert bench.do("cuMemGetInfo") == free


# arguments


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
    found = function(bench, STORE, "store")
    assert launch(bench, found, values, types) == R.CUDA_ERROR_INVALID_VALUE
    assert message in bench.driver.last_error


def test_no_arguments_and_too_few_addresses_are_refused(bench):
    found = function(bench, STORE, "store")
    for given in (None, 0, (ctypes.c_void_p * 1)(8), (ctypes.c_void_p * 2)()):
        status = bench.status("cuLaunchKernel", found, 1, 1, 1, 1, 1, 1, 0, 0, given, 0)
        assert status == R.CUDA_ERROR_INVALID_VALUE


def test_arguments_as_objects_and_as_a_ready_block(bench):
    found, pointer = function(bench, STORE, "store"), bench.filled(16)
    assert launch(bench, found, (pointer, ctypes.c_uint32(5)), (None, None)) == R.CUDA_SUCCESS
    assert bench.bytes_at(pointer, 4) == b"\5\0\0\0"
    block = ctypes.create_string_buffer(int(pointer).to_bytes(8, "little") + b"\6\0\0\0", 12)
    size = ctypes.c_size_t(12)
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(block), 2, ctypes.addressof(size), 0)
    address = ctypes.addressof(extra)
    bench.do("cuLaunchKernel", found, 1, 1, 1, 1, 1, 1, 0, 0, None, address)
    assert bench.bytes_at(pointer, 4) == b"\6\0\0\0"


# faults and findings


def test_a_wild_store_is_sticky_and_says_where(bench):
    found = function(bench, STORE, "store")
    assert launch(bench, found, (0x10, 1), (POINTER, INT)) == R.CUDA_SUCCESS
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_ILLEGAL_ADDRESS
    assert "st.global.u32 [%rd1], %r1" in bench.driver.last_error
    assert launch(bench, found, (0x10, 1), (POINTER, INT)) == R.CUDA_ERROR_ILLEGAL_ADDRESS
    assert len(bench.driver.reports) == 1


def test_a_misaligned_store_is_its_own_error(bench):
    found, pointer = function(bench, STORE, "store"), bench.filled(16)
    launch(bench, found, (int(pointer) + 2, 1), (POINTER, INT))
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_MISALIGNED_ADDRESS


def test_use_after_free_is_an_illegal_address(bench):
    found, pointer = function(bench, STORE, "store"), bench.filled(16)
    bench.do("cuMemFree", pointer)
    launch(bench, found, (int(pointer), 1), (POINTER, INT))
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_ILLEGAL_ADDRESS
    assert bench.driver.reports[0].kind == "use_after_free"


@pytest.mark.parametrize("on_report", ["error", "collect"])
def test_a_finding_that_hardware_would_miss(on_report):
    bench = Bench(on_report=on_report)
    found, pointer = function(bench, STORE, "multiply"), bench.do("cuMemAlloc", 16)
    launch(bench, found, (int(pointer), 2), (POINTER, INT))
    wanted = R.CUDA_ERROR_LAUNCH_FAILED if on_report == "error" else R.CUDA_SUCCESS
    assert bench.status("cuCtxSynchronize") == wanted
    assert [report.kind for report in bench.driver.reports] == ["uninitialized"]


def test_a_kernel_that_never_ends_is_stopped():
    bench = Bench(budget=1000)
    text = HEADER + ".visible .entry spin()\n{\nAGAIN:\n    bra AGAIN;\n}\n"
    found = function(bench, text, "spin")
    bench.do("cuLaunchKernel", found, 1, 1, 1, 32, 1, 1, 0, 0, None, 0)
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_LAUNCH_TIMEOUT


def test_kernels_on_two_streams_that_share_bytes(bench):
    found, pointer = function(bench, STORE, "multiply"), bench.filled(16)
    for _ in range(2):
        launch(bench, found, (int(pointer), 2), (POINTER, INT), stream=bench.stream())
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_LAUNCH_FAILED
    assert "multiply" in bench.driver.last_error
    assert bench.driver.reports[0].kind == "stream_hazard"


def test_kernels_on_two_streams_that_share_no_bytes(bench):
    found, pointer = function(bench, STORE, "multiply"), bench.filled(16)
    for offset in (0, 8):
        address = int(pointer) + offset
        stream = bench.stream()
        launch(bench, found, (address, 2), (POINTER, INT), stream=stream, block=2)
    bench.do("cuCtxSynchronize")


def test_a_kernel_reaches_pinned_and_managed_memory(bench):
    found = function(bench, STORE, "store")
    pinned, managed = bench.do("cuMemHostAlloc", 16, 2), bench.do("cuMemAllocManaged", 16, 1)
    mapped = bench.do("cuMemHostGetDevicePointer", pinned, 0)
    for address in (int(mapped), int(managed)):
        launch(bench, found, (address, 0x01020304), (POINTER, INT))
    bench.do("cuCtxSynchronize")
    for address in (pinned, int(managed)):
        assert ctypes.string_at(address, 4) == b"\4\3\2\1"


# what was counted


def test_launches_are_recorded_and_counted():
    bench, n = Bench(metrics=True), 256
    pointers = [bench.filled(4 * n) for _ in range(3)]
    found = function(bench, VECTOR_ADD, "vector_add")
    values = (*(int(p) for p in pointers), n)
    launch(bench, found, values, (POINTER,) * 3 + (INT,), grid=2, block=128)
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


# graphs


def captured(bench, stream, body):
    mode = bench.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    bench.do("cuStreamBeginCapture", stream, mode)
    body()
    return bench.do("cuStreamEndCapture", stream)


def forked(bench, first, second, *, order):
    """A graph of two branches, the second after the first when `order`."""
    main, side = bench.stream(), bench.stream()
    fork, between, join = (bench.do("cuEventCreate", 2) for _ in range(3))

    def body():
        bench.do("cuEventRecord", fork, main)
        bench.do("cuStreamWaitEvent", side, fork, 0)
        first(main)
        if order:
            bench.do("cuEventRecord", between, main)
            bench.do("cuStreamWaitEvent", side, between, 0)
        second(side)
        bench.do("cuEventRecord", join, side)
        bench.do("cuStreamWaitEvent", main, join, 0)

    graph = captured(bench, main, body)
    bench.do("cuGraphLaunch", bench.do("cuGraphInstantiate", graph, 0), main)
    bench.driver.cuStreamSynchronize(main)
    return [report.kind for report in bench.driver.reports]


@pytest.mark.parametrize("order", [False, True])
def test_branches_of_a_graph_that_share_bytes(order):
    bench = Bench(on_report="collect")
    pointer = bench.filled(64)

    def fill(stream):
        bench.do("cuMemsetD8Async", pointer, 1, 64, stream)

    assert forked(bench, fill, fill, order=order) == ([] if order else ["stream_hazard"])


def test_a_graph_allocates_for_each_launch(bench):
    stream, out = bench.stream(), bench.filled(64)

    def body():
        scratch = bench.do("cuMemAllocAsync", 64, stream)
        bench.do("cuMemsetD8Async", scratch, 4, 64, stream)
        bench.do("cuMemcpyDtoDAsync", out, scratch, 64, stream)
        bench.do("cuMemFreeAsync", scratch, stream)

    ready = bench.do("cuGraphInstantiate", captured(bench, stream, body), 0)
    for _ in range(2):
        bench.do("cuGraphLaunch", ready, stream)
    bench.do("cuStreamSynchronize", stream)
    assert bench.bytes_at(out, 64) == bytes([4]) * 64


def test_a_disabled_node_does_nothing(bench):
    stream, pointer = bench.stream(), bench.filled(64, 1)
    fill = captured(bench, stream, lambda: bench.do("cuMemsetD8Async", pointer, 2, 64, stream))
    ready = bench.do("cuGraphInstantiate", fill, 0)
    (node,), _ = bench.do("cuGraphGetNodes", fill, 1)
    bench.do("cuGraphNodeSetEnabled", ready, node, 0)
    bench.do("cuGraphLaunch", ready, stream)
    bench.do("cuStreamSynchronize", stream)
    assert bench.bytes_at(pointer, 64) == bytes([1]) * 64
    assert bench.do("cuGraphNodeGetEnabled", ready, node) == 0


def test_a_kernel_node_takes_other_arguments(bench):
    stream, pointer = bench.stream(), bench.filled(64, 0)
    found = function(bench, STORE, "store")
    graph = captured(
        bench,
        stream,
        lambda: launch(bench, found, (int(pointer), 3), (POINTER, INT), stream=stream),
    )
    ready = bench.do("cuGraphInstantiate", graph, 0)
    (node,), _ = bench.do("cuGraphGetNodes", graph, 1)
    params = bench.do("cuGraphKernelNodeGetParams", node)
    params.kernelParams = ((int(pointer), 9), (POINTER, INT))
    bench.do("cuGraphExecKernelNodeSetParams", ready, node, params)
    bench.do("cuGraphLaunch", ready, stream)
    bench.do("cuStreamSynchronize", stream)
    assert np.frombuffer(bench.bytes_at(pointer, 4), np.uint32)[0] == 9


def test_the_default_stream_is_refused_while_a_blocking_stream_captures(bench):
    stream, pointer = bench.stream(flags=0), bench.filled(64)
    mode = bench.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    bench.do("cuStreamBeginCapture", stream, mode)
    implicit = bench.status("cuMemsetD8Async", pointer, 1, 64, 0)
    assert implicit == R.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
    ended = bench.status("cuStreamEndCapture", stream)
    assert ended == R.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED


@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemFree", "cuMemcpyDtoH", "cuModuleLoadData"])
def test_calls_that_a_capture_forbids(bench, call):
    stream, pointer = bench.stream(), bench.filled(64)
    arguments = {
        "cuMemAlloc": (64,),
        "cuMemFree": (pointer,),
        "cuMemcpyDtoH": (bytearray(64), pointer, 64),
        "cuModuleLoadData": (STORE.encode() + b"\0",),
    }
    modes = bench.driver.CUstreamCaptureMode
    bench.do("cuStreamBeginCapture", stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    assert bench.status(call, *arguments[call]) == R.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    assert bench.status("cuStreamEndCapture", stream) == R.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    bench.do("cuStreamBeginCapture", stream, modes.CU_STREAM_CAPTURE_MODE_RELAXED)
    assert bench.status("cuMemAlloc", 64) == R.CUDA_SUCCESS
    bench.do("cuStreamEndCapture", stream)
