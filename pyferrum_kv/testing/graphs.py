"""Checks of graphs: capture, replay, fork and join, update, and what capture forbids."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from pyferrum_kv.testing.ptx import STORE
from pyferrum_kv.testing.session import Session


def _multiply(s: Session, function: Any, pointer: Any, factor: int, stream: Any) -> None:
    arguments = ((int(pointer), factor), (ctypes.c_void_p, ctypes.c_uint32))
    s.ok(s.driver.cuLaunchKernel(function, 1, 1, 1, 8, 1, 1, 0, stream, arguments, 0))


def _ones(s: Session) -> Any:
    """Memory of eight words, each 1, to multiply."""
    pointer = s.ok(s.driver.cuMemAlloc(32))
    s.ok(s.driver.cuMemsetD32(pointer, 1, 8))
    s.settle()
    return pointer


def _read(s: Session, pointer: Any) -> list[int]:
    host = np.zeros(8, np.uint32)
    s.ok(s.driver.cuMemcpyDtoH(host, pointer, 32))
    return [int(word) for word in host]


def _capture(s: Session, function: Any, pointer: Any, factors: tuple[int, ...]) -> Any:
    d = s.driver
    mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    s.ok(d.cuStreamBeginCapture(s.stream, mode))
    for factor in factors:
        _multiply(s, function, pointer, factor, s.stream)
    return s.ok(d.cuStreamEndCapture(s.stream))


def check_a_captured_graph_replays(s: Session) -> None:
    """Capturing runs nothing; each launch of the graph runs all of it."""
    d = s.driver
    function, pointer = s.function(STORE, "multiply"), _ones(s)
    graph = _capture(s, function, pointer, (2, 3))
    assert _read(s, pointer) == [1] * 8
    nodes, count = s.ok(d.cuGraphGetNodes(graph, 8))
    assert count == 2
    for node in nodes[:count]:
        kind = s.ok(d.cuGraphNodeGetType(node))
        assert int(kind) == int(d.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL)
    ready = s.ok(d.cuGraphInstantiate(graph, 0))
    s.ok(d.cuGraphDestroy(graph))
    s.ok(d.cuGraphUpload(ready, s.stream))
    for _ in range(2):
        s.ok(d.cuGraphLaunch(ready, s.stream))
    s.synchronize()
    assert _read(s, pointer) == [36] * 8
    s.ok(d.cuGraphExecDestroy(ready))
    s.ok(d.cuMemFree(pointer))


def check_capture_forks_and_joins(s: Session) -> None:
    """A second stream takes part through an event, and must be joined before the end."""
    d = s.driver
    function = s.function(STORE, "multiply")
    other = s.ok(d.cuStreamCreate(1))
    fork, join = (s.ok(d.cuEventCreate(2)) for _ in range(2))
    a, b = _ones(s), _ones(s)
    mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    active = d.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
    for is_joined in (True, False):
        s.ok(d.cuStreamBeginCapture(s.stream, mode))
        s.ok(d.cuEventRecord(fork, s.stream))
        s.ok(d.cuStreamWaitEvent(other, fork, 0))
        assert int(s.ok(d.cuStreamIsCapturing(other))) == int(active)
        _multiply(s, function, a, 5, s.stream)
        _multiply(s, function, b, 7, other)
        s.ok(d.cuEventRecord(join, other))
        if is_joined:
            s.ok(d.cuStreamWaitEvent(s.stream, join, 0))
            graph = s.ok(d.cuStreamEndCapture(s.stream))
        else:
            s.refused(d.cuStreamEndCapture(s.stream), "STREAM_CAPTURE_UNJOINED")
    ready = s.ok(d.cuGraphInstantiate(graph, 0))
    s.ok(d.cuGraphLaunch(ready, s.stream))
    s.synchronize()
    assert _read(s, a) == [5] * 8
    assert _read(s, b) == [7] * 8
    s.ok(d.cuGraphExecDestroy(ready))
    s.ok(d.cuGraphDestroy(graph))
    for event in (fork, join):
        s.ok(d.cuEventDestroy(event))
    s.ok(d.cuStreamDestroy(other))
    for pointer in (a, b):
        s.ok(d.cuMemFree(pointer))


def check_a_graph_is_updated(s: Session) -> None:
    """The same shape with other arguments is taken over; another shape is refused."""
    d = s.driver
    function, pointer = s.function(STORE, "multiply"), _ones(s)
    first, second, longer = (
        _capture(s, function, pointer, factors) for factors in ((2,), (9,), (2, 2))
    )
    ready = s.ok(d.cuGraphInstantiate(first, 0))
    s.ok(d.cuGraphExecUpdate(ready, second))
    s.refused(d.cuGraphExecUpdate(ready, longer), "GRAPH_EXEC_UPDATE_FAILURE")
    s.ok(d.cuGraphLaunch(ready, s.stream))
    s.synchronize()
    assert _read(s, pointer) == [9] * 8
    s.ok(d.cuGraphExecDestroy(ready))
    for graph in (first, second, longer):
        s.ok(d.cuGraphDestroy(graph))
    s.ok(d.cuMemFree(pointer))


def _kernel_node(s: Session, function: Any, pointer: Any) -> tuple[Any, Any, Any, Any]:
    """A graph of one multiplication by 3: graph, node, parameters, and where the factor lies."""
    d, graph = s.driver, s.ok(s.driver.cuGraphCreate(0))
    values = ctypes.c_void_p(int(pointer)), ctypes.c_uint32(3)
    addresses = (ctypes.c_void_p * 2)(*(ctypes.addressof(value) for value in values))
    params = d.CUDA_KERNEL_NODE_PARAMS()
    params.func, params.kernelParams = function, ctypes.addressof(addresses)
    params.gridDimX = params.gridDimY = params.gridDimZ = 1
    params.blockDimX, params.blockDimY, params.blockDimZ = 8, 1, 1
    node = s.ok(d.cuGraphAddKernelNode(graph, None, 0, params))
    return graph, node, params, (values, addresses)


def check_a_kernel_node_is_made_by_hand_and_changed(s: Session) -> None:
    """Arguments are read at each call; a change reaches later launches, and no earlier ones."""
    d = s.driver
    pointer = _ones(s)
    graph, node, params, kept = _kernel_node(s, s.function(STORE, "multiply"), pointer)
    kept[0][1].value = 1000  # nobody reads it before the next call
    ready = s.ok(d.cuGraphInstantiate(graph, 0))
    s.ok(d.cuGraphLaunch(ready, s.stream))
    kept[0][1].value = 5
    s.ok(d.cuGraphExecKernelNodeSetParams(ready, node, params))
    kept[0][1].value = 1000
    for _ in range(2):
        s.ok(d.cuGraphLaunch(ready, s.stream))
    s.synchronize()
    assert _read(s, pointer) == [75] * 8
    params.blockDimX = 2048
    s.refused(d.cuGraphExecKernelNodeSetParams(ready, node, params), "INVALID_VALUE")
    s.ok(d.cuGraphLaunch(ready, s.stream))
    s.synchronize()
    assert _read(s, pointer) == [375] * 8
    s.ok(d.cuGraphExecDestroy(ready))
    s.ok(d.cuGraphDestroy(graph))
    s.ok(d.cuMemFree(pointer))


def check_a_kernel_node_has_attributes(s: Session) -> None:
    """What cuLaunchKernelEx takes as an attribute is set on the node, and told again."""
    d = s.driver
    pointer = _ones(s)
    graph, node, _, _ = _kernel_node(s, s.function(STORE, "multiply"), pointer)
    which, value = d.CUkernelNodeAttrID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE, d.CUkernelNodeAttrValue()
    assert s.ok(d.cuGraphKernelNodeGetAttribute(node, which)).cooperative == 0
    value.cooperative = 1
    s.ok(d.cuGraphKernelNodeSetAttribute(node, which, value))
    assert s.ok(d.cuGraphKernelNodeGetAttribute(node, which)).cooperative == 1
    ready = s.ok(d.cuGraphInstantiate(graph, 0))
    s.ok(d.cuGraphLaunch(ready, s.stream))
    s.synchronize()
    assert _read(s, pointer) == [3] * 8
    s.ok(d.cuGraphExecDestroy(ready))
    s.ok(d.cuGraphDestroy(graph))
    s.ok(d.cuMemFree(pointer))


def check_a_capture_refuses_a_graph(s: Session) -> None:
    """A graph launched into a capture does not run, and ends the capture without a graph."""
    d = s.driver
    function, pointer = s.function(STORE, "multiply"), _ones(s)
    inner = _capture(s, function, pointer, (2, 3))
    ready = s.ok(d.cuGraphInstantiate(inner, 0))
    mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    s.ok(d.cuStreamBeginCapture(s.stream, mode))
    s.refused(d.cuGraphLaunch(ready, s.stream), "STREAM_CAPTURE_UNSUPPORTED")
    s.refused(d.cuStreamEndCapture(s.stream), "STREAM_CAPTURE_INVALIDATED")
    assert _read(s, pointer) == [1] * 8
    s.ok(d.cuGraphExecDestroy(ready))
    s.ok(d.cuGraphDestroy(inner))
    s.ok(d.cuMemFree(pointer))


def check_a_capture_forbids_synchronising(s: Session) -> None:
    """Waiting for a capturing stream is refused and ends the capture without a graph."""
    d = s.driver
    mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    s.ok(d.cuStreamBeginCapture(s.stream, mode))
    s.refused(d.cuStreamSynchronize(s.stream), "STREAM_CAPTURE_UNSUPPORTED")
    s.refused(d.cuStreamEndCapture(s.stream), "STREAM_CAPTURE_INVALIDATED")
    none = d.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    assert int(s.ok(d.cuStreamIsCapturing(s.stream))) == int(none)
    s.synchronize()


def check_the_default_stream_cannot_capture(s: Session) -> None:
    """The legacy default stream cannot be captured."""
    d = s.driver
    mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    s.refused(d.cuStreamBeginCapture(d.CUstream(0), mode), "STREAM_CAPTURE_UNSUPPORTED")


def check_outside_events_cannot_enter_a_capture(s: Session) -> None:
    """A capturing stream cannot wait for what is not captured."""
    d = s.driver
    other, event = s.ok(d.cuStreamCreate(1)), s.ok(d.cuEventCreate(2))
    s.ok(d.cuEventRecord(event, other))
    mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    s.ok(d.cuStreamBeginCapture(s.stream, mode))
    s.refused(d.cuStreamWaitEvent(s.stream, event, 0), "STREAM_CAPTURE_ISOLATION")
    s.refused(d.cuStreamEndCapture(s.stream), "STREAM_CAPTURE_INVALIDATED")
    s.ok(d.cuEventDestroy(event))
    s.ok(d.cuStreamDestroy(other))
