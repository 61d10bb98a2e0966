"""Frozen launches: a graph of one kernel, launched, changed and cloned."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.frozen import frozen, prepared, times_x
from helpers.kernels import AXPY, SHARED

from pyferrum_kv import (
    CudaContext,
    LaunchConfig,
    errors,
)


def test_replays_and_changes_arguments(ctx: CudaContext) -> None:
    stream, y, launch = frozen(ctx)
    assert launch.handle
    assert launch.stream is stream
    assert not launch.is_closed
    launch.upload()
    launch.launch()
    launch()
    launch.set("a", 1.0).launch()
    launch.launch_with([("a", 10.0), (1, y)])
    launch.launch()
    expected = np.array(times_x(25))
    launch.set(2, 10).launch()
    expected[:10] += 10 * np.arange(10)
    assert stream.clone_dtoh(y).tolist() == expected.tolist()


def test_a_launch_under_way_keeps_its_arguments(ctx: CudaContext) -> None:
    stream, y, launch = frozen(ctx)
    for factor in (1.0, 2.0, 4.0):
        launch.set("a", factor).launch()
    assert stream.clone_dtoh(y).tolist() == times_x(7)


def test_freezing_copies(ctx: CudaContext) -> None:
    """Neither hears of what becomes of the other."""
    stream, y, launch = prepared(ctx)
    launch.set("a", 3.0)
    ice = launch.freeze()
    launch.set("n", 0)
    ice.launch()
    assert stream.clone_dtoh(y).tolist() == times_x(3)
    ice.set("n", 0)
    launch.set("n", 40).launch()
    ice.close()
    launch.launch()
    assert stream.clone_dtoh(y).tolist() == times_x(9)


def test_changes_are_all_or_nothing(ctx: CudaContext) -> None:
    stream, y, launch = frozen(ctx)
    with pytest.raises(errors.ArgumentError, match="'a' is float"):
        launch.launch_with([("n", 7), ("a", "wrong")])
    with pytest.raises(errors.ArgumentError, match="no parameter 'q'; it has 'x', 'y', 'n', 'a'"):
        launch.launch_with([("n", 7), ("q", 1)])
    with pytest.raises(errors.ArgumentError, match="'y' is"):
        launch.set("y", 1.5)
    launch.launch()
    launch.set("a", 1.0).launch()
    assert stream.clone_dtoh(y).tolist() == times_x(3)


def test_a_change_that_the_driver_refuses_is_undone(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream, y, launch = frozen(fake_ctx)
    z = stream.alloc(40, "f4")
    fake.fail("cuGraphExecKernelNodeSetParams", "NOT_SUPPORTED")
    with pytest.raises(errors.DriverError, match=r"cuGraphExecKernelNodeSetParams\(axpy grid"):
        launch.launch_with([("y", z), ("n", 3)])
    assert fake.count("cuGraphLaunch") == 0
    z.close()
    launch.launch()  # z is none of its arguments
    y.close()
    with pytest.raises(errors.ClosedError, match=r"argument 2 'y' is <CudaSlice .*closed"):
        launch.launch()


def test_replay_asks_nothing_of_the_driver_but_the_launch(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream, _, launch = frozen(fake_ctx)
    launch.launch()
    before = len(fake.calls)
    for _ in range(5):
        launch.launch()
    assert [name for name, _ in fake.calls[before:]] == ["cuGraphLaunch"] * 5
    executable, cu_stream = fake.calls[-1][1]
    assert (int(executable), int(cu_stream)) == (launch.handle, stream.handle)
    launch.launch_with([("n", 1)])
    assert fake.names()[-2:] == ["cuGraphExecKernelNodeSetParams", "cuGraphLaunch"]
    assert fake_ctx.last_launch.startswith("axpy grid (2, 1, 1)")


def test_other_streams(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream, _, launch = prepared(fake_ctx)
    other, third = fake_ctx.new_stream(), fake_ctx.new_stream()
    ice = launch.freeze(other)
    twin = ice.clone(third)
    assert [one.stream for one in (ice, twin, ice.clone())] == [other, third, other]
    assert twin.handle != ice.handle
    streams: list[int] = []
    fake.before["cuGraphLaunch"] = lambda: streams.append(int(fake.calls[-1][1][1]))
    ice.launch()
    ice.launch(stream)
    ice.launch(other)
    ice.launch_with([("n", 1)], stream)
    twin.launch()
    names = (other, stream, other, stream, third)
    assert streams == [one.handle for one in names]
    foreign = CudaContext.new(1, driver=fake).new_stream()
    for refused in (
        ice.launch,
        ice.upload,
        launch.freeze,
        ice.clone,
        lambda s: ice.launch_with([], s),
    ):
        with pytest.raises(errors.WrongContextError, match="the stream is of <CudaContext primary"):
            refused(foreign)


def test_clone_is_independent(ctx: CudaContext) -> None:
    stream, y, launch = frozen(ctx)
    with launch.clone() as twin:
        twin.set("a", 50.0)
        launch.launch()
        launch.close()
        twin.launch()
    assert twin.is_closed
    assert stream.clone_dtoh(y).tolist() == times_x(52)


def test_clones_run_on_streams_of_their_own(ctx: CudaContext) -> None:
    stream, y, launch = frozen(ctx)
    side = ctx.new_stream()
    z = side.alloc_zeros(40, "f4")
    side.join(stream)
    launch.clone(side).set("y", z).launch()
    launch.launch()
    assert stream.clone_dtoh(y).tolist() == side.clone_dtoh(z).tolist() == times_x(2)


def test_cluster_and_cooperative_are_set_on_the_node(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, _, launch = prepared(fake_ctx)
    launch.configure(LaunchConfig(4, 32, 16, cluster_dim=2, cooperative=True)).freeze()
    params = next(args for name, args in fake.calls if name == "cuGraphAddKernelNode")[-1]
    assert (params.gridDimX, params.blockDimX, params.sharedMemBytes) == (4, 32, 16)
    (_, _, cluster), (_, _, cooperative) = (
        args for name, args in fake.calls if name == "cuGraphKernelNodeSetAttribute"
    )
    dim = cluster.clusterDim
    assert (dim.x, dim.y, dim.z, cooperative.cooperative) == (2, 1, 1, 1)


def test_programmatic_launches_are_refused(fake_ctx: CudaContext) -> None:
    _, _, launch = prepared(fake_ctx)
    launch.configure(LaunchConfig(2, 32, programmatic=True))
    with pytest.raises(
        errors.ArgumentError, match=r"freeze of axpy .*programmatic is True;.*ahead"
    ):
        launch.freeze()


def test_dynamic_shared_memory_and_an_entry_without_parameters(ctx: CudaContext) -> None:
    stream = ctx.new_stream()
    out = stream.alloc_zeros(1, np.uint32)
    size = 60_000  # beyond the 48 KiB that need no asking
    function = ctx.load_module(SHARED).function("last_word")
    function.prepare(LaunchConfig(1, 1, size), out, size, stream=stream).freeze().launch()
    assert stream.clone_dtoh(out).tolist() == [77]
    ptx = AXPY.split(".visible")[0] + ".visible .entry nothing()\n{\n    ret;\n}\n"
    nothing = ctx.load_module(ptx).function("nothing")
    nothing.prepare(LaunchConfig(1, 1), stream=stream).freeze().launch()
    stream.synchronize()
