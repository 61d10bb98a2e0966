"""Graphs on the virtual device, and what a capture forbids."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from helpers.virtual_bench import Bench, R

from pyferrum_kv.testing.ptx import STORE

POINTER, INT = ctypes.c_void_p, ctypes.c_uint32


@pytest.fixture
def bench():
    return Bench()


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
    found = bench.function(STORE, "store")
    graph = captured(
        bench,
        stream,
        lambda: bench.launch(found, (int(pointer), 3), (POINTER, INT), stream=stream),
    )
    ready = bench.do("cuGraphInstantiate", graph, 0)
    (node,), _ = bench.do("cuGraphGetNodes", graph, 1)
    params = bench.do("cuGraphKernelNodeGetParams", node)
    params.kernelParams = ((int(pointer), 9), (POINTER, INT))
    bench.do("cuGraphExecKernelNodeSetParams", ready, node, params)
    bench.do("cuGraphLaunch", ready, stream)
    bench.do("cuStreamSynchronize", stream)
    assert np.frombuffer(bench.bytes_at(pointer, 4), np.uint32)[0] == 9


def test_a_kernel_node_keeps_its_attributes_when_its_arguments_change(bench):
    d, pointer = bench.driver, bench.filled(64, 0)
    params = d.CUDA_KERNEL_NODE_PARAMS()
    params.func = bench.function(STORE, "store")
    params.kernelParams = ((int(pointer), 3), (POINTER, INT))
    params.gridDimX, params.gridDimY, params.gridDimZ = 4, 1, 1
    params.blockDimX = params.blockDimY = params.blockDimZ = 1
    graph = bench.do("cuGraphCreate", 0)
    node = bench.do("cuGraphAddKernelNode", graph, None, 0, params)
    which = d.CUkernelNodeAttrID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    value = d.CUkernelNodeAttrValue()
    dim = value.clusterDim
    for x, wanted in (
        (16, R.CUDA_ERROR_INVALID_CLUSTER_SIZE),
        (3, R.CUDA_ERROR_INVALID_CLUSTER_SIZE),  # does not divide the grid
        (2, R.CUDA_SUCCESS),
    ):
        dim.x, dim.y, dim.z = x, 1, 1
        assert bench.status("cuGraphKernelNodeSetAttribute", node, which, value) == wanted
    assert bench.do("cuGraphKernelNodeGetAttribute", node, which).clusterDim.x == 2
    ready = bench.do("cuGraphInstantiate", graph, 0)
    params.gridDimX = 5
    refused = bench.status("cuGraphExecKernelNodeSetParams", ready, node, params)
    assert refused == R.CUDA_ERROR_INVALID_CLUSTER_SIZE
    params.gridDimX = 2
    bench.do("cuGraphExecKernelNodeSetParams", ready, node, params)
    empty = bench.do("cuGraphAddEmptyNode", graph, [], 0)
    assert bench.status("cuGraphKernelNodeGetAttribute", empty, which) == R.CUDA_ERROR_INVALID_VALUE
    cooperative = d.CUkernelNodeAttrID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    value = d.CUkernelNodeAttrValue()
    value.cooperative = 1
    bench.do("cuGraphKernelNodeSetAttribute", node, cooperative, value)
    params.gridDimX = 1 << 20
    assert bench.do("cuGraphKernelNodeGetAttribute", node, cooperative).cooperative == 1
    big = bench.do("cuGraphAddKernelNode", graph, None, 0, params)
    refused = bench.status("cuGraphKernelNodeSetAttribute", big, cooperative, value)
    assert refused == R.CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE


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
