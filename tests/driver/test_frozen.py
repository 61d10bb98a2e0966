"""Frozen launches: a graph of one kernel, its changes, what it stands on, and its end."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY, SHARED

from pyferrum_kv import (
    CudaContext,
    CudaSlice,
    CudaStream,
    FrozenLaunch,
    LaunchConfig,
    PreparedLaunch,
    errors,
)


def prepared(context: CudaContext, **options: Any) -> tuple[CudaStream, CudaSlice, PreparedLaunch]:
    """y += 2 * x over 40 elements; x is 0..39, y is kept by the launch."""
    stream = context.new_stream()
    x = stream.clone_htod(np.arange(40, dtype=np.float32))
    y = stream.alloc_zeros(40, "f4")
    function = context.load_module(AXPY).function("axpy")
    config = LaunchConfig.for_num_elems(40, block=32)
    return stream, y, function.prepare(config, x, y, 40, 2.0, stream=stream, **options)


def frozen(context: CudaContext) -> tuple[CudaStream, CudaSlice, FrozenLaunch]:
    stream, y, launch = prepared(context)
    return stream, y, launch.freeze()


def times_x(factor: float) -> list[float]:
    return [factor * i for i in range(40)]


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


@pytest.mark.parametrize("keep", [True, False])
def test_a_closed_argument_makes_it_stale(ctx: CudaContext, keep: bool) -> None:
    stream = ctx.new_stream()
    y, z = stream.alloc_zeros(40, "f4"), stream.alloc_zeros(40, "f4")
    function = ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(
        LaunchConfig(2, 32), z, y[:], 40, 1.0, stream=stream, keep_arguments=keep
    )
    ice = launch.freeze()
    ice.launch()
    y.close()
    for stale in (ice.launch, ice.clone, launch.freeze):
        with pytest.raises(errors.ClosedError, match=r"launch of axpy .* argument 2 'y' is"):
            stale()
    ice.set("y", z).launch()
    ice.launch()
    z.close()
    with pytest.raises(errors.ClosedError, match="argument 1 'x' is"):
        ice.launch()


def test_kept_arguments_live_until_it_is_closed(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    _, y, launch = prepared(fake_ctx)
    ice = launch.freeze()
    ice.launch()
    del y, launch
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 0
    ice.close()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 2


def test_a_dropped_argument_that_is_not_kept_makes_it_stale(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(40, "f4")
    function = fake_ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(
        LaunchConfig(2, 32), x, None, 40, 1.0, stream=stream, keep_arguments=False
    )
    ice = launch.freeze()
    ice.launch()
    twin = ice.clone()
    del x
    gc.collect()
    for stale in (ice.launch, twin.launch, ice.clone, launch.freeze):
        with pytest.raises(errors.ClosedError, match="argument 'x' is gone"):
            stale()
    assert fake.count("cuGraphLaunch") == 1


def test_what_it_stands_on_may_be_closed(ctx: CudaContext) -> None:
    stream, _, launch = frozen(ctx)
    other = stream.fork()
    stream.close()
    with pytest.raises(errors.ClosedError, match="stream"):
        launch.launch()
    launch.launch(other)
    other.synchronize()
    launch.function.module.close()
    for refused in (lambda: launch.launch(other), lambda: launch.set("n", 1)):
        with pytest.raises(errors.ClosedError, match="axpy: <CudaModule"):
            refused()
    launch.close()


def test_closing_is_for_good_and_once(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    _, _, launch = frozen(fake_ctx)
    launch.close()
    launch.close()
    assert fake.names()[-2:] == ["cuGraphExecDestroy", "cuGraphDestroy"]
    assert fake.count("cuGraphExecDestroy") == fake.count("cuGraphDestroy") == 1
    for name in ("launch", "upload", "clone"):
        with pytest.raises(errors.ClosedError, match=f"{name} of axpy .* frozen launch is closed"):
            getattr(launch, name)()
    with pytest.raises(errors.ClosedError, match="set of axpy"):
        launch.set("n", 1)
    with pytest.raises(errors.ClosedError, match="launch of axpy"):
        launch.launch_with([("n", 1)])
    with pytest.raises(errors.ClosedError, match="handle of axpy"):
        _ = launch.handle
    assert repr(launch).endswith("closed>")


def test_dropped_it_is_given_back_before_its_module(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, y, launch = frozen(fake_ctx)
    del launch, y
    gc.collect()
    fake_ctx.synchronize()
    fake_ctx.synchronize()
    gone = [name for name in fake.names() if "Destroy" in name or "Unload" in name]
    assert sorted(gone[:2]) == ["cuGraphDestroy", "cuGraphExecDestroy"]
    assert "cuModuleUnload" not in gone[:2]


@pytest.mark.parametrize(
    "call", ["cuGraphCreate", "cuGraphAddKernelNode", "cuGraphInstantiate", "SetAttribute"]
)
def test_it_is_made_whole_or_not_at_all(fake: FakeDriver, fake_ctx: CudaContext, call: str) -> None:
    _, _, launch = prepared(fake_ctx)
    launch.configure(LaunchConfig(2, 32, cluster_dim=2))
    out = len(fake_ctx.ledger)
    name = "cuGraphKernelNodeSetAttribute" if call == "SetAttribute" else call
    fake.fail(name, "OUT_OF_MEMORY")
    with pytest.raises(errors.DriverError, match=name):
        launch.freeze()
    assert fake.count("cuGraphDestroy") == (call != "cuGraphCreate")
    assert len(fake_ctx.ledger) == out
    launch.launch()


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


def test_captured_it_is_its_kernel(ctx: CudaContext) -> None:
    """With the arguments of that moment; on a stream that is not captured it runs."""
    stream, y, launch = frozen(ctx)
    launch.set("a", 3.0)
    side = ctx.new_stream()
    with stream.capture() as graph:
        launch.launch()
        launch.launch_with([("a", 4.0)])
        with pytest.raises(errors.CaptureError, match="freeze before it"):
            launch.clone()
    launch.set("a", 100.0)
    assert stream.clone_dtoh(y).tolist() == [0] * 40
    graph.launch()
    assert stream.clone_dtoh(y).tolist() == times_x(7)
    z = side.alloc_zeros(40, "f4")
    side.synchronize()
    with stream.capture():
        stream.memset_zeros(y)
        launch.launch_with([("y", z)], side)
    assert side.clone_dtoh(z).tolist() == times_x(100)


def test_a_capture_keeps_what_it_used_and_defers_its_close(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream, y, launch = frozen(fake_ctx)
    z = stream.alloc(40, "f4")
    with stream.capture() as graph:
        fake.capturing.add(stream.handle)
        launch.launch()
        launch.launch_with([("y", z)])
        launch.close()
        assert fake.count("cuGraphExecDestroy") == 0
    del y, z, launch
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 0
    assert fake.count("cuGraphExecDestroy") == 1
    assert (fake.count("cuGraphLaunch"), fake.count("cuLaunchKernelEx")) == (0, 2)
    graph.close()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 3


def test_freezing_in_a_capture_is_refused(ctx: CudaContext) -> None:
    stream, y, launch = prepared(ctx)
    with stream.capture():
        with pytest.raises(errors.CaptureError, match=r"freeze of axpy .* freeze before it"):
            launch.freeze()
        stream.memset_zeros(y)


def test_failures_name_the_launch_and_a_lost_context_stays_lost(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, _, launch = frozen(fake_ctx)
    fake.fail("cuGraphLaunch", "LAUNCH_OUT_OF_RESOURCES")
    with pytest.raises(errors.DriverError, match=r"cuGraphLaunch\(axpy grid .*OUT_OF_RESOURCES"):
        launch.launch()
    launch.launch()
    fake.fail("cuGraphLaunch", "ILLEGAL_ADDRESS")
    with pytest.raises(errors.ContextLost, match="ILLEGAL_ADDRESS"):
        launch.launch_with([("n", 1)])
    for use in (launch.launch, lambda: launch.set("n", 2)):
        with pytest.raises(errors.ContextLost, match="lost since CUDA_ERROR_ILLEGAL_ADDRESS"):
            use()
    launch.close()
    assert fake.count("cuGraphExecDestroy") == 0


def test_a_closed_context_refuses_it(fake: FakeDriver) -> None:
    context = CudaContext.new(0, driver=fake)
    _, _, launch = frozen(context)
    context.close()
    assert fake.count("cuGraphExecDestroy") == 1
    before = len(fake.calls)
    for use in (launch.launch, launch.clone, lambda: launch.set("n", 2)):
        with pytest.raises(errors.ClosedError):
            use()
    launch.close()
    assert len(fake.calls) == before


def test_a_foreign_context_is_noticed_and_the_launch_repeated(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, _, launch = frozen(fake_ctx)
    fake._cuCtxSetCurrent(fake.CUcontext(0xBAD))  # another library's work
    fake.fail("cuGraphLaunch", "INVALID_CONTEXT")
    launch.launch()
    assert fake.count("cuGraphLaunch") == 2
    assert int(fake._cuCtxGetCurrent()[0]) == fake_ctx.handle


def test_threads_take_turns(ctx: CudaContext) -> None:
    """Each change and its launch stay together: the sum is that of all factors."""
    stream, y, launch = frozen(ctx)
    start = threading.Barrier(4)

    def work(factor: float) -> None:
        start.wait()
        for _ in range(10):
            launch.launch_with([("a", factor)])

    threads = [threading.Thread(target=work, args=(float(2**i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.clone_dtoh(y).tolist() == times_x(150)


def test_close_waits_for_a_launch_on_its_way(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    _, _, launch = frozen(fake_ctx)
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert go.wait(10)

    fake.before["cuGraphLaunch"] = hold
    thread = threading.Thread(target=launch.launch)
    thread.start()
    assert inside.wait(10)
    closing = threading.Thread(target=launch.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    assert fake.count("cuGraphExecDestroy") == 0
    go.set()
    thread.join()
    closing.join()
    assert fake.names()[-3:] == ["cuGraphLaunch", "cuGraphExecDestroy", "cuGraphDestroy"]
