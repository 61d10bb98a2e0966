"""Launches: configurations, the builder, prepared launches and what invalidates them."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY, SHARED

from pyferrum_kv import CudaContext, CudaSlice, CudaStream, LaunchConfig, PreparedLaunch, errors
from pyferrum_kv.driver.function import CudaFunction


def axpy(context: CudaContext) -> CudaFunction:
    return context.load_module(AXPY).function("axpy")


def ready(context: CudaContext, **options: Any) -> tuple[CudaStream, CudaSlice, PreparedLaunch]:
    """y += 2 * x over 40 elements, prepared; x is 0..39, y is kept by the launch."""
    stream = context.new_stream()
    x = stream.clone_htod(np.arange(40, dtype=np.float32))
    y = stream.alloc_zeros(40, "f4")
    config = LaunchConfig.for_num_elems(40, block=32)
    return stream, y, axpy(context).prepare(config, x, y, 40, 2.0, stream=stream, **options)


def test_builder_launches(ctx: CudaContext, stream: CudaStream) -> None:
    x = stream.clone_htod(np.arange(50, dtype=np.float32))
    y = stream.alloc_zeros(50, "f4")
    builder = stream.launch_builder(axpy(ctx)).arg(x).arg(y).arg(50).arg(0.5)
    assert builder.launch(LaunchConfig.for_num_elems(50, block=64)) is None
    assert stream.clone_dtoh(y).tolist() == [0.5 * i for i in range(50)]


def test_timed_launch_returns_its_events(ctx: CudaContext, stream: CudaStream) -> None:
    x = stream.alloc_zeros(4, "f4")
    builder = stream.launch_builder(axpy(ctx)).args(x, x, 4, 1.0).timed()
    timed = builder.launch(LaunchConfig(1, 32))
    assert timed is not None
    start, end = timed
    end.synchronize()
    assert end - start >= 0


def test_prepared_launch_replays_and_changes_single_arguments(ctx: CudaContext) -> None:
    stream, y, launch = ready(ctx)
    launch.launch()
    launch()
    launch.set("a", 1.0).launch()
    launch.set(2, 10).launch()
    expected = np.arange(40.0) * 5
    expected[:10] += np.arange(10)
    assert stream.clone_dtoh(y).tolist() == expected.tolist()


def test_launch_with_changes_all_or_nothing(ctx: CudaContext) -> None:
    stream, y, launch = ready(ctx)
    with pytest.raises(errors.ArgumentError, match="'a' is float"):
        launch.launch_with([("n", 7), ("a", "wrong")])
    launch.launch()
    assert stream.clone_dtoh(y)[39] == 78  # n is still 40
    launch.launch_with([("n", 7), ("a", 100.0)])
    assert stream.clone_dtoh(y)[[6, 7]].tolist() == [612, 14]


def test_an_argument_not_taken_is_not_watched_instead(ctx: CudaContext) -> None:
    stream, y, _ = ready(ctx)
    x, z = stream.alloc_zeros(40, "f4"), stream.alloc_zeros(40, "f4")
    launch = axpy(ctx).prepare(
        LaunchConfig(2, 32), x, y, 40, 2.0, stream=stream, keep_arguments=False
    )
    with pytest.raises(errors.ArgumentError, match="'a' is float"):
        launch.launch_with([("x", z), ("a", "wrong")])
    z.close()
    launch.launch()  # on x
    x.close()
    with pytest.raises(errors.ClosedError, match="argument 1 'x' is"):
        launch.launch()


def test_unknown_parameter_lists_the_known(ctx: CudaContext) -> None:
    _, _, launch = ready(ctx)
    with pytest.raises(errors.ArgumentError, match="no parameter 'q'; it has 'x', 'y', 'n', 'a'"):
        launch.set("q", 1)
    with pytest.raises(errors.ArgumentError, match="no parameter 4"):
        launch.launch_with([("n", 1), (4, 1)])


def test_clone_is_independent(ctx: CudaContext) -> None:
    stream, y, launch = ready(ctx)
    twin = launch.clone()
    twin.set("n", 1)
    launch.launch()
    assert stream.clone_dtoh(y)[39] == 78
    twin.set("a", 50.0).launch()
    assert stream.clone_dtoh(y)[39] == 78


def test_configure_changes_the_grid(ctx: CudaContext) -> None:
    stream, y, launch = ready(ctx)
    launch.configure(LaunchConfig(1, 32)).launch()
    assert stream.clone_dtoh(y)[[31, 32]].tolist() == [62, 0]
    with pytest.raises(errors.ArgumentError, match="block_dim"):
        launch.configure(LaunchConfig(1, 512))


def test_launch_on_another_stream_and_back(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream, _, launch = ready(fake_ctx)
    other = fake_ctx.new_stream()
    streams: list[int] = []
    fake.before["cuLaunchKernelEx"] = lambda: streams.append(int(fake.calls[-1][1][0].hStream))
    launch.launch(other)
    launch.launch()
    launch.launch(stream)
    assert streams == [other.handle, stream.handle, stream.handle]
    foreign = CudaContext.new(1, driver=fake).new_stream()
    with pytest.raises(errors.WrongContextError, match="the stream is of <CudaContext primary"):
        launch.launch(foreign)


def test_replay_asks_nothing_of_the_driver_but_the_launch(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, _, launch = ready(fake_ctx)
    launch.launch()
    before = len(fake.calls)
    for _ in range(5):
        launch.launch()
    assert [name for name, _ in fake.calls[before:]] == ["cuLaunchKernelEx"] * 5
    handle, _, address, extra = fake.calls[-1][1][0], *fake.calls[-1][1][1:]
    assert isinstance(address, int)
    assert extra == 0
    assert handle.gridDimX == 2


def test_same_configuration_is_checked_once(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream, y, _ = ready(fake_ctx)
    before = fake.count("cuDeviceGetAttribute")
    for _ in range(3):
        config = LaunchConfig.for_num_elems(40, block=32)
        stream.launch_builder(axpy(fake_ctx)).args(y, y, 40, 1.0).launch(config)
    assert fake.count("cuDeviceGetAttribute") == before


@pytest.mark.parametrize("keep", [True, False])
def test_closed_argument_makes_the_launch_stale(ctx: CudaContext, keep: bool) -> None:
    stream, y, _ = ready(ctx)
    launch = axpy(ctx).prepare(
        LaunchConfig(2, 32), y, y[:], 40, 1.0, stream=stream, keep_arguments=keep
    )
    launch.launch()
    y.close()
    with pytest.raises(errors.ClosedError, match=r"launch of axpy .* argument 1 'x' is"):
        launch.launch()
    z = stream.alloc_zeros(40, "f4")
    launch.set("x", z)
    with pytest.raises(errors.ClosedError, match="argument 2 'y'"):
        launch.launch()
    launch.set("y", z)
    launch.launch()


def test_dropped_argument_that_is_not_kept_makes_the_launch_stale(ctx: CudaContext) -> None:
    stream = ctx.new_stream()
    x = stream.alloc_zeros(4, "f4")
    launch = axpy(ctx).prepare(
        LaunchConfig(1, 32), x, x, 4, 1.0, stream=stream, keep_arguments=False
    )
    launch.launch()
    del x
    gc.collect()
    with pytest.raises(errors.ClosedError, match=r"argument '[xy]' is gone"):
        launch.launch()


def test_kept_arguments_outlive_their_names(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    _, y, launch = ready(fake_ctx)
    del y
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 0
    launch.launch()
    del launch
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 2


def test_closed_stream_module_and_context_are_refused(ctx: CudaContext) -> None:
    stream, _, launch = ready(ctx)
    other = stream.fork()
    stream.close()
    with pytest.raises(errors.ClosedError, match=r"stream .* is closed"):
        launch.launch()
    launch.launch(other)
    other.synchronize()
    launch.function.module.close()
    with pytest.raises(errors.ClosedError, match="axpy"):
        launch.launch(other)
    created = CudaContext.create(0, driver=ctx.api)
    stream, _, launch = ready(created)
    created.close()
    with pytest.raises(errors.ClosedError, match=r"launch of axpy .*CudaContext"):
        launch.launch()


def test_launch_from_a_fresh_thread_binds_the_context(ctx: CudaContext) -> None:
    stream, y, launch = ready(ctx)
    thread = threading.Thread(target=launch.launch)
    thread.start()
    thread.join()
    assert stream.clone_dtoh(y)[39] == 78


def test_context_changed_behind_our_back_is_noticed(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, _, launch = ready(fake_ctx)
    launch.launch()
    fake._cuCtxSetCurrent(fake.CUcontext(0xBAD))  # another library's work
    fake.fail("cuLaunchKernelEx", "INVALID_CONTEXT")
    launch.launch()
    assert CudaContext.current(driver=fake) is fake_ctx


def test_failing_launch_names_function_and_configuration(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, _, launch = ready(fake_ctx)
    fake.fail("cuLaunchKernelEx", "LAUNCH_OUT_OF_RESOURCES")
    with pytest.raises(errors.DriverError) as caught:
        launch.launch()
    assert "cuLaunchKernelEx(axpy grid (2, 1, 1) block (32, 1, 1))" in str(caught.value)
    fake.fail("cuLaunchKernelEx", "ILLEGAL_ADDRESS")
    with pytest.raises(errors.ContextLost):
        launch.launch()
    with pytest.raises(errors.ContextLost, match="lost since CUDA_ERROR_ILLEGAL_ADDRESS"):
        launch.launch()


def test_shared_memory_limit_is_raised_at_bind(ctx: CudaContext, stream: CudaStream) -> None:
    function = ctx.load_module(SHARED).function("last_word")
    out = stream.alloc_zeros(1, "u4")
    config = LaunchConfig(1, 1, shared_mem_bytes=65536)
    stream.launch_builder(function).args(out, 65536).launch(config)
    assert stream.clone_dtoh(out).tolist() == [77]
    most = ctx.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
    with pytest.raises(errors.ArgumentError, match=f"shared_mem_bytes is {most + 1}; wanted at"):
        function.prepare(LaunchConfig(1, 1, most + 1), out, 4, stream=stream)


@pytest.mark.parametrize("dims", [0, (1, 0), (1, 1, 1, 1), (1.5,), (-1,)])
def test_impossible_dimensions_are_refused(dims: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=r"grid_dim is .*; wanted up to three integers"):
        LaunchConfig(dims, 1)


def test_for_num_elems() -> None:
    assert LaunchConfig.for_num_elems(0) == LaunchConfig((1, 1, 1), (1024, 1, 1))
    assert LaunchConfig.for_num_elems(1025).grid_dim == (2, 1, 1)
    assert LaunchConfig.for_num_elems(1024, block=256).grid_dim == (4, 1, 1)


def test_too_many_threads_are_refused(ctx: CudaContext, stream: CudaStream) -> None:
    x = stream.alloc(4, "f4")
    with pytest.raises(errors.ArgumentError, match=r"axpy: block_dim .* has 257 threads; wanted"):
        axpy(ctx).prepare(LaunchConfig(1, 257), x, x, 4, 1.0, stream=stream)
    with pytest.raises(errors.ArgumentError, match=r"grid_dim.y is 65536; wanted at most 65535"):
        axpy(ctx).prepare(LaunchConfig((1, 65536), 1), x, x, 4, 1.0, stream=stream)


def attributes_of(fake: FakeDriver) -> dict[str, Any]:
    config = next(args[0] for name, args in fake.calls[::-1] if name == "cuLaunchKernelEx")
    assert config.numAttrs == len(config.attrs)
    return {a.id.name.removeprefix("CU_LAUNCH_ATTRIBUTE_"): a.value for a in config.attrs}


def test_launch_attributes_reach_the_driver(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream, _, launch = ready(fake_ctx)
    launch.configure(LaunchConfig(4, 32, cluster_dim=2, programmatic=True)).launch()
    found = attributes_of(fake)
    cluster = found["CLUSTER_DIMENSION"].clusterDim
    assert (cluster.x, cluster.y, cluster.z) == (2, 1, 1)
    programmatic = found["PROGRAMMATIC_STREAM_SERIALIZATION"]
    assert programmatic.programmaticStreamSerializationAllowed == 1
    launch.configure(LaunchConfig(4, 32, cooperative=True)).launch()
    assert attributes_of(fake)["COOPERATIVE"].cooperative == 1
    launch.configure(LaunchConfig(4, 32)).launch()
    assert attributes_of(fake) == {}
    assert stream is launch.stream


def test_features_are_checked_against_the_device(
    fake: FakeDriver, fake_ctx: CudaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, launch = ready(fake_ctx)
    with pytest.raises(errors.ArgumentError, match=r"grid_dim is \(3, 1, 1\); wanted multiples"):
        launch.configure(LaunchConfig(3, 32, cluster_dim=2))
    with pytest.raises(errors.ArgumentError, match="has 265 CTAs; wanted at most 264"):
        launch.configure(LaunchConfig(265, 32, cooperative=True))  # 132 SMs of 2
    monkeypatch.setitem(FakeDriver.attributes, "COMPUTE_CAPABILITY_MAJOR", 8)
    _, _, launch = ready(CudaContext.new(1, driver=fake))
    for config in (LaunchConfig(2, 32, cluster_dim=2), LaunchConfig(2, 32, programmatic=True)):
        with pytest.raises(errors.ArgumentError, match=r"compute capability 8.0; wanted 9.0"):
            launch.configure(config)


@pytest.mark.parametrize("wrong", [1e300, "wrong", True])
def test_a_change_that_is_refused_leaves_the_argument(ctx: CudaContext, wrong: Any) -> None:
    stream, y, launch = ready(ctx)
    launch.set("a", 3.0)
    for change in (lambda: launch.set("a", wrong), lambda: launch.launch_with((("a", wrong),))):
        with pytest.raises(errors.ArgumentError, match="'a' is float"):
            change()
    launch.launch()
    assert stream.clone_dtoh(y)[39] == 117
