"""Frozen launches in captures, on lost and foreign contexts, and from several threads."""

from __future__ import annotations

import gc
import threading

import pytest
from helpers.fake_driver import FakeDriver
from helpers.frozen import frozen, prepared, times_x

from pyferrum_kv import (
    CudaContext,
    errors,
)


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


@pytest.mark.parametrize("foreign", [0, 0xBAD])
def test_its_context_is_current_before_a_change(
    fake: FakeDriver, fake_ctx: CudaContext, foreign: int
) -> None:
    """Without it a real driver crashes the process in cuGraphExecKernelNodeSetParams."""
    _, _, launch = frozen(fake_ctx)
    for change in (lambda: launch.set("n", 2), lambda: launch.launch_with([("n", 3)])):
        fake._cuCtxSetCurrent(fake.CUcontext(foreign))
        fake.calls.clear()
        change()
        names = [call[0] for call in fake.calls]
        assert names.index("cuCtxSetCurrent") < names.index("cuGraphExecKernelNodeSetParams")


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
