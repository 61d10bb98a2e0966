"""Launches that are made once: what they check each time, and what they leave behind."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY

from pyferrum_kv import CudaContext, CudaStream, LaunchConfig, errors
from pyferrum_kv.driver import binding
from pyferrum_kv.driver.function import CudaFunction

CONFIG = LaunchConfig(2, 32)


def axpy(context: CudaContext) -> CudaFunction:
    return context.load_module(AXPY).function("axpy")


def test_each_launch_has_its_own_arguments(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = stream.clone_htod(np.arange(50, dtype=np.float32)), stream.alloc_zeros(50, "f4")
    for n, a in ((50, 1.0), (10, 2.0), (1, 100.0), (50, 0.5)):
        stream.launch_builder(axpy(ctx)).args(x, y, n, a).launch(CONFIG)
    expected = np.arange(50) * 1.5
    expected[:10] += 2 * np.arange(10)
    assert stream.clone_dtoh(y).tolist() == expected.tolist()


def test_a_builder_launches_again_with_what_it_has(ctx: CudaContext, stream: CudaStream) -> None:
    x = stream.clone_htod(np.ones(4, np.float32))
    y = stream.alloc_zeros(4, "f4")
    builder = stream.launch_builder(axpy(ctx)).args(x, y, 4)
    with pytest.raises(errors.ArgumentError, match="got 3, without 'a'"):
        builder.launch(CONFIG)
    builder.arg(2.0).launch(CONFIG)
    builder.launch(CONFIG)
    with pytest.raises(errors.ArgumentError, match="got 5"):
        builder.arg(1).launch(CONFIG)
    assert stream.clone_dtoh(y).tolist() == [4.0] * 4


def test_wrong_arguments_are_refused_after_right_ones(ctx: CudaContext, stream: CudaStream) -> None:
    x = stream.alloc_zeros(4, "f4")
    function = axpy(ctx)
    stream.launch_builder(function).args(x, x, 4, 1.0).launch(CONFIG)
    for wrong, said in (
        ((x, x, 2**32, 1.0), "'n' is bits, got 4294967296"),
        ((x, x, 4, 1e300), "which it cannot hold"),
        ((x, x, 4, True), "'a' is float, got int True"),
        ((x, 1.5, 4, 1.0), "'y' is bits, got float"),
    ):
        with pytest.raises(errors.ArgumentError, match=said):
            stream.launch_builder(function).args(*wrong).launch(CONFIG)
    closed = stream.alloc(4, "f4")
    closed.close()
    with pytest.raises(errors.ClosedError, match=r"float32\[4\], closed"):
        stream.launch_builder(function).args(x, closed, 4, 1.0).launch(CONFIG)
    with pytest.raises(errors.ArgumentError, match="block_dim"):
        stream.launch_builder(function).args(x, x, 4, 1.0).launch(LaunchConfig(1, 512))


def test_what_is_closed_is_refused(ctx: CudaContext, stream: CudaStream) -> None:
    function, x = axpy(ctx), stream.alloc_zeros(4, "f4")
    other = stream.fork()
    builder = other.launch_builder(function).args(x, x, 4, 1.0)
    builder.launch(CONFIG)
    other.close()
    with pytest.raises(errors.ClosedError, match=r"stream .* is closed"):
        builder.launch(CONFIG)
    builder = stream.launch_builder(function).args(x, x, 4, 1.0)
    function.module.close()
    with pytest.raises(errors.ClosedError, match="axpy"):
        builder.launch(CONFIG)
    created = CudaContext.create(0, driver=ctx.api)
    there = created.new_stream()
    builder = there.launch_builder(axpy(created)).args(there.alloc(4, "f4"), None, 0, 1.0)
    created.close()
    with pytest.raises(errors.ClosedError, match=r"launch of axpy .*CudaContext"):
        builder.launch(CONFIG)


def test_a_failing_launch_is_named_and_the_next_one_goes(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    builder = stream.launch_builder(axpy(fake_ctx)).args(None, None, 0, 1.0)
    fake.fail("cuLaunchKernelEx", "LAUNCH_OUT_OF_RESOURCES")
    said = r"cuLaunchKernelEx\(axpy grid \(2, 1, 1\) block \(32, 1, 1\)\)"
    with pytest.raises(errors.DriverError, match=said):
        builder.launch(CONFIG)
    builder.launch(CONFIG)
    assert fake_ctx.last_launch == "axpy grid (2, 1, 1) block (32, 1, 1)"
    fake.fail("cuLaunchKernelEx", "ILLEGAL_ADDRESS")
    with pytest.raises(errors.ContextLost):
        builder.launch(CONFIG)
    with pytest.raises(errors.ContextLost, match="lost since"):
        builder.launch(CONFIG)


def test_arguments_are_let_go_after_the_launch(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(4, "f4")
    stream.launch_builder(axpy(fake_ctx)).args(x, x, 4, 1.0).launch(CONFIG)
    assert x._dependants is None  # nobody to tell of its close()
    del x
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 1


def test_a_graph_keeps_the_arguments(ctx: CudaContext, stream: CudaStream) -> None:
    x, y = stream.clone_htod(np.ones(4, np.float32)), stream.alloc_zeros(4, "f4")
    function = axpy(ctx)
    with stream.capture() as graph:
        stream.launch_builder(function).args(x, y, 4, 3.0).launch(CONFIG)
    del x
    gc.collect()
    stream.alloc_zeros(4, "f4")  # would have the memory now, had it been freed
    graph.launch()
    assert stream.clone_dtoh(y).tolist() == [3.0] * 4


def test_every_stream_gets_its_own_launches(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    streams = [fake_ctx.new_stream(), fake_ctx.default_stream(), fake_ctx.new_stream()]
    seen: list[int] = []
    fake.before["cuLaunchKernelEx"] = lambda: seen.append(int(fake.calls[-1][1][0].hStream))
    for stream in [*streams, *streams]:
        stream.launch_builder(axpy(fake_ctx)).args(None, None, 0, 1.0).launch(CONFIG)
    assert seen == [stream.handle for stream in [*streams, *streams]]


def test_ever_new_configurations_are_not_hoarded(fake_ctx: CudaContext) -> None:
    stream, function = fake_ctx.new_stream(), axpy(fake_ctx)
    for grid in range(1, 600):
        builder = stream.launch_builder(function).args(None, None, 0, 1.0)
        builder.launch(LaunchConfig(grid, 32))
    assert len(function.once._forms) <= 256


def test_threads_launch_at_once(ctx: CudaContext, stream: CudaStream) -> None:
    function = axpy(ctx)
    x = stream.clone_htod(np.ones(8, np.float32))
    y = stream.alloc_zeros(8, "f4")

    def work(n: int) -> None:
        for _ in range(10):
            stream.launch_builder(function).args(x, y, n, 1.0).launch(CONFIG)

    threads = [threading.Thread(target=work, args=(n,)) for n in (2, 4, 6, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.clone_dtoh(y).tolist() == [40, 40, 30, 30, 20, 20, 10, 10]


def test_one_context_alone_needs_no_look_at_the_thread(
    ctx: CudaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh thread has no context: the driver says so, and the launch binds and repeats."""
    monkeypatch.setattr(binding.CROWD, "is_one", True)
    monkeypatch.setattr(binding.CROWD, "first", None)
    stream = ctx.new_stream()
    x, y = stream.clone_htod(np.ones(4, np.float32)), stream.alloc_zeros(4, "f4")
    function = axpy(ctx)
    launch = function.prepare(CONFIG, x, y, 4, 1.0, stream=stream)
    with stream.capture() as graph:
        launch.launch()
    once = stream.launch_builder(function).args(x, y, 4, 10.0)
    assert binding.CROWD.is_one
    failed: list[BaseException] = []

    def alone(work: object) -> None:
        try:
            assert callable(work)
            work()
        except BaseException as error:
            failed.append(error)

    for work in (launch.launch, lambda: once.launch(CONFIG), graph.launch):
        thread = threading.Thread(target=alone, args=(work,))
        thread.start()
        thread.join()
    assert failed == []
    assert stream.clone_dtoh(y).tolist() == [12.0] * 4


def test_a_second_context_makes_launches_look(
    fake: FakeDriver, fake_ctx: CudaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding.CROWD, "is_one", True)
    monkeypatch.setattr(binding.CROWD, "first", None)
    stream = fake_ctx.new_stream()
    launch = axpy(fake_ctx).prepare(CONFIG, None, None, 0, 1.0, stream=stream)
    other = CudaContext.new(1, driver=fake)
    assert not binding.CROWD.is_one
    assert CudaContext.current(driver=fake) is other
    launch.launch()
    assert CudaContext.current(driver=fake) is fake_ctx
