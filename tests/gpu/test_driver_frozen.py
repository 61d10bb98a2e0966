"""Frozen launches on hardware: attributes of the node, order between streams, threads, captures."""

from __future__ import annotations

import ctypes
import threading
import time

import numpy as np
import pytest
from helpers.kernels import AXPY, CLUSTER, SPIN

from pyferrum_kv import CudaContext, CudaSlice, CudaStream, FrozenLaunch, LaunchConfig
from pyferrum_kv.driver import binding
from pyferrum_kv.errors import CaptureError

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu_ctx")]

ONE_WARP = LaunchConfig(1, 32)


def adder(stream: CudaStream, config: LaunchConfig = ONE_WARP) -> tuple[CudaSlice, FrozenLaunch]:
    """Each launch adds 1 to 32 numbers."""
    x, y = stream.clone_htod(np.ones(32, np.float32)), stream.alloc_zeros(32, "f4")
    function = stream.context.load_module(AXPY).function("axpy")
    return y, function.prepare(config, x, y, 32, 1.0, stream=stream).freeze()


def test_launches_go_to_the_address(gpu_ctx: CudaContext) -> None:
    assert isinstance(gpu_ctx.api.graph_launch.call, ctypes._CFuncPtr)


@pytest.mark.parametrize("cluster", [2, 8])
def test_clusters_stay_clusters_through_a_change(gpu_ctx: CudaContext, cluster: int) -> None:
    if gpu_ctx.compute_capability < (9, 0):
        pytest.skip("needs compute capability 9.0")
    stream = gpu_ctx.new_stream()
    function = gpu_ctx.load_module(CLUSTER).function("cluster_rank")
    first, second = (stream.alloc_zeros(16, "u4") for _ in range(2))
    config = LaunchConfig(16, 32, cluster_dim=cluster)
    launch = function.prepare(config, first, stream=stream).freeze()
    launch.launch()
    launch.launch_with([("out", second)])
    expected = [i % cluster * 100 + cluster for i in range(16)]
    assert stream.clone_dtoh(first).tolist() == expected
    assert stream.clone_dtoh(second).tolist() == expected


def test_cooperative_launches_are_frozen(gpu_ctx: CudaContext) -> None:
    stream = gpu_ctx.new_stream()
    y, launch = adder(stream, LaunchConfig(1, 32, cooperative=True))
    launch.launch()
    launch.set("a", 2.0).launch()
    assert stream.clone_dtoh(y).tolist() == [3.0] * 32


def test_a_change_reaches_no_launch_under_way(gpu_ctx: CudaContext) -> None:
    stream = gpu_ctx.new_stream()
    y, launch = adder(stream)
    launch.launch()
    stream.synchronize()
    spin = gpu_ctx.load_module(SPIN).function("spin")
    spin.prepare(LaunchConfig(1, 1), 5_000_000, stream=stream).launch()
    for power in range(1, 8):
        launch.launch_with([("a", float(2**power))])
    launch.close()
    assert stream.clone_dtoh(y).tolist() == [255.0] * 32


def test_one_never_runs_beside_itself_and_clones_do(gpu_ctx: CudaContext) -> None:
    first, second = gpu_ctx.new_stream(), gpu_ctx.new_stream()
    spin = gpu_ctx.load_module(SPIN).function("spin")
    launch = spin.prepare(LaunchConfig(1, 1), 10_000_000, stream=first).freeze()
    twin = launch.clone(second)
    launch.launch()
    twin.launch()
    gpu_ctx.synchronize()

    def seconds(other: FrozenLaunch) -> float:
        begin = time.perf_counter()
        launch.launch()
        other.launch(second)
        gpu_ctx.synchronize()
        return time.perf_counter() - begin

    assert seconds(launch) > 0.0195
    assert min(seconds(twin) for _ in range(5)) < 0.018


def test_threads_share_a_launch_and_change_it(gpu_ctx: CudaContext) -> None:
    """Each launch adds 1, on whichever of two slices."""
    stream = gpu_ctx.new_stream()
    y, launch = adder(stream)
    z = stream.alloc_zeros(32, "f4")
    start = threading.Barrier(8)

    def work(index: int) -> None:
        start.wait()
        for i in range(500):
            if index < 4:
                launch.launch()
            else:
                launch.launch_with([("y", (y, z)[i % 2])])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sums = stream.clone_dtoh(y) + stream.clone_dtoh(z)
    assert sums.tolist() == [4000.0] * 32


def test_somebody_elses_capture_refuses_it(gpu_ctx: CudaContext) -> None:
    """A capture that this package did not begin, so that it cannot put the kernel itself there."""
    raw, stream = gpu_ctx.api.raw, gpu_ctx.new_stream()
    y, launch = adder(stream)
    stream.synchronize()
    mode = raw.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    assert not raw.cuStreamBeginCapture(stream.cu_stream, mode)[0]
    try:
        with pytest.raises(CaptureError, match="cuGraphLaunch"):
            launch.launch()
    finally:
        raw.cuStreamEndCapture(stream.cu_stream)
    launch.launch()
    assert stream.clone_dtoh(y).tolist() == [1.0] * 32


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_our_capture_takes_it_as_its_kernel(gpu_ctx: CudaContext, mode: str) -> None:
    stream = gpu_ctx.new_stream()
    y, launch = adder(stream)
    launch.launch()
    with stream.capture(mode) as graph:
        launch.launch()
        launch.launch_with([("a", 4.0)])
    launch.set("a", 1000.0)
    graph.launch()
    assert stream.clone_dtoh(y).tolist() == [6.0] * 32


@pytest.mark.parametrize("current", ["none", "another library's"])
def test_whatever_context_is_current_it_reaches_its_own(
    gpu_ctx: CudaContext, monkeypatch: pytest.MonkeyPatch, current: str
) -> None:
    monkeypatch.setattr(binding.CROWD, "is_one", True)
    monkeypatch.setattr(binding.CROWD, "first", None)
    raw, stream = gpu_ctx.api.raw, gpu_ctx.new_stream()
    y, launch = adder(stream)
    stream.synchronize()
    params = () if gpu_ctx.api.bindings_version < 13000 else (None,)
    status, other = raw.cuCtxCreate(*params, 0, gpu_ctx.cu_device)
    assert not status
    raw.cuCtxPopCurrent()
    foreign = other if current == "another library's" else raw.CUcontext(0)
    failed: list[Exception] = []

    def work() -> None:
        try:
            raw.cuCtxSetCurrent(foreign)
            launch.launch()
            raw.cuCtxSetCurrent(foreign)
            launch.launch_with([("a", 2.0)])
            raw.cuCtxSetCurrent(foreign)
            launch.set("a", 4.0).launch()
            gpu_ctx.synchronize()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    try:
        assert not failed
        gpu_ctx.bind_to_thread()
        assert stream.clone_dtoh(y).tolist() == [7.0] * 32
    finally:
        raw.cuCtxDestroy(other)
        gpu_ctx.bind_to_thread()
