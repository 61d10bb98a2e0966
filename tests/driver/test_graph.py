"""Graphs: capture, replay, update, what they keep alive, and what a capture forbids."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY, STORE_ALL

from pyferrum_kv import CudaContext, CudaGraph, CudaSlice, CudaStream, LaunchConfig, errors

CONFIG = LaunchConfig(1, 32)


class Owner:
    """Of memory that is only borrowed."""


def add_x(stream: CudaStream, x: CudaSlice, y: CudaSlice, a: float) -> CudaGraph:
    """A graph of one launch, y += a * x."""
    function = stream.context.load_module(AXPY).function("axpy")
    launch = function.prepare(CONFIG, x, y, len(y), a, stream=stream)
    with stream.capture() as graph:
        launch.launch()
    return graph


def pair(stream: CudaStream) -> tuple[CudaSlice, CudaSlice]:
    return stream.clone_htod(np.arange(4, dtype=np.float32)), stream.alloc_zeros(4, "f4")


def test_capture_records_and_replays(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = pair(stream)
    graph = add_x(stream, x, y, 2.0)
    assert stream.clone_dtoh(y).tolist() == [0, 0, 0, 0]  # captured, not run
    graph.upload()
    graph.launch()
    graph.launch(stream)
    assert stream.clone_dtoh(y).tolist() == [0, 4, 8, 12]
    assert graph.handle


def test_forked_streams_join_the_capture(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = pair(stream)
    side = ctx.new_stream()
    with stream.capture() as graph:
        side.join(stream)
        side.memcpy_dtod(x, y)
        stream.join(side)
    graph.launch()
    assert stream.clone_dtoh(y).tolist() == [0, 1, 2, 3]


def test_update_takes_the_others_arguments(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = pair(stream)
    graph, other = add_x(stream, x, y, 1.0), add_x(stream, x, y, 10.0)
    graph.update(other)
    other.close()
    graph.launch()
    assert stream.clone_dtoh(y).tolist() == [0, 10, 20, 30]


def test_update_with_another_shape_is_refused(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = pair(stream)
    graph = add_x(stream, x, y, 1.0)
    with stream.capture() as other:
        stream.memset_zeros(y)
        stream.memcpy_dtod(x, y)
    with pytest.raises(errors.DriverError, match=r"GRAPH_EXEC_UPDATE_FAILURE.*capture a new graph"):
        graph.update(other)


def test_graph_keeps_what_it_uses_alive(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream = fake_ctx.new_stream()
    x, y = pair(stream)
    graph = add_x(stream, x, y, 1.0)
    del x, y
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 0
    graph.close()
    graph.close()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 2
    assert fake.count("cuGraphExecDestroy") == fake.count("cuGraphDestroy") == 1


def test_arguments_changed_after_the_launch_stay_alive_too(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    x, y = pair(stream)
    function = fake_ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(CONFIG, x, y, 4, 1.0, stream=stream, keep_arguments=False)
    z, owner = stream.alloc(4, "f4"), Owner()
    with stream.capture() as graph:
        launch.launch()
        launch.set("x", z)
        launch.launch()
        launch.launch_with([("x", stream.slice_from_ptr(z.device_ptr, 4, "f4", owner=owner))])
    kept = weakref.ref(owner)
    del x, y, z, launch, owner
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 0
    assert kept() is not None
    del graph
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 3
    assert kept() is None


def test_nothing_is_freed_or_unloaded_while_a_capture_runs(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    x, dropped = stream.alloc(4, "f4"), stream.alloc(4, "f4")
    module = fake_ctx.load_module(AXPY)
    with stream.capture():
        x.close()
        module.close()
        del dropped
        stream.memset_zeros(stream.slice_from_ptr(0x4000, 4, "f4"))
        assert fake.count("cuMemFreeAsync") == fake.count("cuModuleUnload") == 0
        assert x.is_closed
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 2
    assert fake.count("cuModuleUnload") == 1


def test_loading_in_a_capture_is_refused_and_preloading_helps(
    ctx: CudaContext, stream: CudaStream
) -> None:
    x, y = pair(stream)
    module = ctx.load_module(AXPY)
    with stream.capture() as graph:
        with pytest.raises(errors.CaptureError, match=r"load_module: .* a capture runs"):
            ctx.load_module(STORE_ALL)
        with pytest.raises(errors.CaptureError, match=r"axpy .* call module.preload\(\) before"):
            module.function("axpy")
        stream.memset_zeros(y)
    graph.launch()
    module.preload()
    with stream.capture() as graph:
        stream.launch_builder(module["axpy"]).args(x, y, 4, 1.0).launch(CONFIG)
    graph.launch()
    assert stream.clone_dtoh(y).tolist() == [0, 1, 2, 3]


def test_what_cannot_be_captured_says_so(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = pair(stream)
    with stream.capture():
        with pytest.raises(errors.CaptureError, match=r"alloc: .* is capturing; allocate before"):
            stream.alloc(4, "f4")
        with pytest.raises(errors.CaptureError, match=r"pageable .* use ctx.alloc_pinned\(\)"):
            stream.memcpy_htod(np.zeros(4, np.float32), y)
        with pytest.raises(errors.CaptureError, match="memcpy_dtoh: pageable"):
            stream.memcpy_dtoh(x, np.zeros(4, np.float32))
        assert stream.capture_status == "active"
        stream.memset_zeros(y)
    assert stream.capture_status == "none"


def test_pinned_copies_are_captured(ctx: CudaContext, stream: CudaStream) -> None:
    _, y = pair(stream)
    host = ctx.alloc_pinned(4, "f4")
    host.array[:] = 1
    with stream.capture() as graph:
        stream.memcpy_htod(host, y)
    host.array[:] = 7  # a replay reads what is there then
    graph.launch()
    assert stream.clone_dtoh(y).tolist() == [7] * 4


def wait_in_capture(stream: CudaStream) -> None:
    with stream.capture(), pytest.raises(errors.CaptureError, match="CAPTURE_UNSUPPORTED"):
        stream.synchronize()


def test_synchronising_inside_a_capture_breaks_it_with_a_reason(stream: CudaStream) -> None:
    with pytest.raises(errors.CaptureError, match=r"cuStreamEndCapture.*CAPTURE_INVALIDATED"):
        wait_in_capture(stream)
    stream.synchronize()
    assert stream.capture_status == "none"


def test_errors_of_the_block_win_and_the_stream_is_free_again(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    with pytest.raises(ZeroDivisionError), stream.capture():
        raise ZeroDivisionError
    assert fake.names()[-2:] == ["cuStreamEndCapture", "cuGraphDestroy"]
    assert fake_ctx.ledger.captures == []
    with stream.capture():
        pass


def test_graph_that_cannot_be_instantiated_is_destroyed(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    fake.fail("cuGraphInstantiate", "OUT_OF_MEMORY")
    with pytest.raises(errors.DriverError, match="cuGraphInstantiate"), stream.capture():
        pass
    assert fake.names()[-1] == "cuGraphDestroy"


def test_unfinished_and_closed_graphs_are_refused(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = pair(stream)
    with stream.capture() as graph:
        stream.memset_zeros(y)
        with pytest.raises(errors.CaptureError, match="launch: the capture has not ended"):
            graph.launch()
    graph.close()
    with pytest.raises(errors.ClosedError, match="launch: the graph is closed"):
        graph.launch()
    with pytest.raises(errors.ClosedError):
        add_x(stream, x, y, 1.0).update(graph)


def test_unknown_mode_is_refused(stream: CudaStream) -> None:
    with pytest.raises(errors.ArgumentError, match="mode is 'loose'; wanted one of global"):
        stream.capture("loose")
