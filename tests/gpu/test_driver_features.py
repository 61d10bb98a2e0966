"""Launch attributes, occupancy and graphs on the device that has them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kernels import AXPY, CLUSTER, STORE_ALL

from pyferrum_kv import ArgumentError, CudaContext, CudaStream, DriverError, LaunchConfig
from pyferrum_kv.driver.parameters import signature_from_driver

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu_ctx")]


@pytest.fixture
def gpu_stream(gpu_ctx: CudaContext) -> CudaStream:
    return gpu_ctx.new_stream()


def needs_hopper(context: CudaContext) -> None:
    if context.compute_capability < (9, 0):
        pytest.skip("needs compute capability 9.0")


@pytest.mark.parametrize("cluster", [1, 2, 4, 8])
def test_clusters(gpu_ctx: CudaContext, gpu_stream: CudaStream, cluster: int) -> None:
    needs_hopper(gpu_ctx)
    function = gpu_ctx.load_module(CLUSTER).function("cluster_rank")
    out = gpu_stream.alloc_zeros(16, "u4")
    config = LaunchConfig(16, 32, cluster_dim=cluster)
    gpu_stream.launch_builder(function).arg(out).launch(config)
    expected = [i % cluster * 100 + cluster for i in range(16)]
    assert gpu_stream.clone_dtoh(out).tolist() == expected
    assert function.occupancy.max_active_clusters(config) > 0
    assert function.occupancy.max_potential_cluster_size(config) >= 8


def test_cluster_beyond_the_portable_size(gpu_ctx: CudaContext, gpu_stream: CudaStream) -> None:
    needs_hopper(gpu_ctx)
    function = gpu_ctx.load_module(CLUSTER).function("cluster_rank")
    out = gpu_stream.alloc_zeros(16, "u4")
    with pytest.raises(DriverError, match=r"cuLaunchKernelEx.*cluster_rank"):
        gpu_stream.launch_builder(function).arg(out).launch(LaunchConfig(32, 32, cluster_dim=32))
    gpu_stream.launch_builder(function).arg(out).launch(LaunchConfig(16, 32, cluster_dim=16))
    assert gpu_stream.clone_dtoh(out)[15] == 1516


def test_programmatic_dependent_launches_keep_their_order(
    gpu_ctx: CudaContext, gpu_stream: CudaStream
) -> None:
    needs_hopper(gpu_ctx)
    function = gpu_ctx.load_module(CLUSTER).function("dependent")
    out = gpu_stream.alloc_zeros(1, "u4")
    config = LaunchConfig(1, 1, programmatic=True)
    launch = function.prepare(config, out, stream=gpu_stream)
    for _ in range(31):
        launch.launch()
    assert gpu_stream.clone_dtoh(out).tolist() == [2**31 - 1]


def test_cooperative_grid_fits_or_is_refused(gpu_ctx: CudaContext, gpu_stream: CudaStream) -> None:
    function = gpu_ctx.load_module(AXPY).function("axpy")
    most = function.occupancy.max_cooperative_blocks(256)
    x = gpu_stream.alloc_zeros(256 * most, "f4")
    y = gpu_stream.alloc_zeros(256 * most, "f4")
    gpu_stream.memset(x, 1.0)
    arguments = (x, y, 256 * most, 3.0)
    builder = gpu_stream.launch_builder(function).args(*arguments)
    builder.launch(LaunchConfig(most, 256, cooperative=True))
    assert (gpu_stream.clone_dtoh(y) == 3.0).all()
    with pytest.raises(ArgumentError, match=f"wanted at most {most}, all on the device at once"):
        builder.launch(LaunchConfig(most + 1, 256, cooperative=True))


def test_occupancy_agrees_with_the_devices_limits(gpu_ctx: CudaContext) -> None:
    occupancy = gpu_ctx.load_module(AXPY).function("axpy").occupancy
    threads = gpu_ctx.attribute("MAX_THREADS_PER_MULTIPROCESSOR")
    assert 1 <= occupancy.max_active_blocks(256) <= threads // 256
    grid, block = occupancy.max_potential_block_size()
    assert block <= 256
    assert grid == occupancy.max_active_blocks(block) * gpu_ctx.device.num_sms
    free = occupancy.available_dynamic_shared_bytes(2, 256)
    assert occupancy.max_active_blocks(256, free) >= 2


def test_driver_tells_the_parameters_that_the_ptx_tells(gpu_ctx: CudaContext) -> None:
    function = gpu_ctx.load_module(STORE_ALL).function("store_all")
    known = [(p.offset, p.size_bytes) for p in function.signature.params]
    for count in (len(known), None):  # None: until the driver refuses
        told = signature_from_driver(gpu_ctx, function.cu_function, "store_all", count)
        if gpu_ctx.api.version < 12040:
            assert told is None
        else:
            assert told is not None
            assert [(p.offset, p.size_bytes) for p in told.params] == known


def test_graph_updates_replay_new_arguments(gpu_ctx: CudaContext, gpu_stream: CudaStream) -> None:
    function = gpu_ctx.load_module(AXPY).function("axpy")
    x = gpu_stream.clone_htod(np.ones(256, np.float32))
    y = gpu_stream.alloc_zeros(256, "f4")
    launch = function.prepare(LaunchConfig(1, 256), x, y, 256, 1.0, stream=gpu_stream)

    with gpu_stream.capture() as graph:
        launch.launch()
    for factor in range(2, 12):
        launch.set("a", float(factor))
        with gpu_stream.capture() as changed:
            launch.launch()
        graph.update(changed)
        changed.close()
        graph.launch()
    assert (gpu_stream.clone_dtoh(y) == sum(range(2, 12))).all()
    graph.close()


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_every_capture_mode_replays(
    gpu_ctx: CudaContext, gpu_stream: CudaStream, mode: str
) -> None:
    x = gpu_stream.alloc_zeros(8, "i4")
    with gpu_stream.capture(mode) as graph:
        gpu_stream.memset(x, 3)
    graph.upload()
    graph.launch()
    assert gpu_stream.clone_dtoh(x).tolist() == [3] * 8


def test_streams_of_another_library_are_taken(gpu_ctx: CudaContext) -> None:
    raw = gpu_ctx.api.raw
    _, foreign = raw.cuStreamCreate(0)
    stream = gpu_ctx.external_stream(int(foreign))
    x = stream.clone_htod(np.arange(8, dtype=np.int32))
    assert stream.clone_dtoh(x).tolist() == list(range(8))
    x.close()
    stream.synchronize()
    stream.close()
    raw.cuStreamDestroy(foreign)


def test_stream_priorities_are_taken(gpu_ctx: CudaContext) -> None:
    least, greatest = gpu_ctx.stream_priority_range
    assert greatest < least
    stream = gpu_ctx.new_stream(priority=greatest)
    assert gpu_ctx.call("cuStreamGetPriority", stream.cu_stream) == greatest
