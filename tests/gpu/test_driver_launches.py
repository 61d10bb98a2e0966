"""Launches at the driver's own address: on threads, in a full queue, beside other contexts."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from helpers.kernels import AXPY, SPIN

from pyferrum_kv import CudaContext, CudaSlice, CudaStream, LaunchConfig, PreparedLaunch
from pyferrum_kv.driver import binding

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu_ctx")]

ONE_WARP = LaunchConfig(1, 32)


def adder(stream: CudaStream) -> tuple[CudaSlice, PreparedLaunch]:
    """Each launch adds 1 to 32 numbers."""
    x, y = stream.clone_htod(np.ones(32, np.float32)), stream.alloc_zeros(32, "f4")
    function = stream.context.load_module(AXPY).function("axpy")
    return y, function.prepare(ONE_WARP, x, y, 32, 1.0, stream=stream)


def on_a_thread(work: Callable[[], None]) -> None:
    """Run `work` on a fresh thread, and raise here what it raised there."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in failed:
        raise error


def test_launches_go_to_the_address(gpu_ctx: CudaContext) -> None:
    assert isinstance(gpu_ctx.api.launch_ex.call, ctypes._CFuncPtr)


def test_threads_share_an_unchanged_launch(gpu_ctx: CudaContext) -> None:
    stream = gpu_ctx.new_stream()
    y, launch = adder(stream)
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(1000):
            launch.launch()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.clone_dtoh(y).tolist() == [8000.0] * 32


def test_a_launch_is_changed_while_others_make_it(gpu_ctx: CudaContext) -> None:
    """Before the first change and after it: each launch adds 1, on whichever of two slices."""
    stream = gpu_ctx.new_stream()
    y, launch = adder(stream)
    z = stream.alloc_zeros(32, "f4")
    stop = threading.Event()
    made = [0, 0, 0]

    def work(index: int) -> None:
        while not stop.is_set():
            launch.launch()
            made[index] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for target in (z, y) * 200:
        launch.set("y", target)
    stop.set()
    for thread in threads:
        thread.join()
    sums = stream.clone_dtoh(y) + stream.clone_dtoh(z)
    assert sums.tolist() == [float(sum(made))] * 32


def test_other_threads_run_while_a_launch_waits_in_a_full_queue(gpu_ctx: CudaContext) -> None:
    stream = gpu_ctx.new_stream()
    spin = gpu_ctx.load_module(SPIN).function("spin")
    launch = spin.prepare(LaunchConfig(1, 1), 200_000, stream=stream)  # 0.2 ms
    counted, done = 0, threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.wait(0.001):
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    for _ in range(4000):  # 0.8 s of work, and a queue of some thousand launches
        launch.launch()
    done.set()
    thread.join()
    stream.synchronize()
    assert counted > 20


@pytest.fixture
def alone_context(gpu_ctx: CudaContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaContext]:
    """As in a process that has met one context only: a launch does not look at its thread."""
    monkeypatch.setattr(binding.CROWD, "is_one", True)
    monkeypatch.setattr(binding.CROWD, "first", None)
    yield gpu_ctx
    gpu_ctx.bind_to_thread()


@pytest.mark.parametrize("kind", ["new", "default", "per thread"])
@pytest.mark.parametrize("current", ["none", "another library's"])
def test_whatever_context_is_current_the_launch_reaches_its_own(
    alone_context: CudaContext, kind: str, current: str
) -> None:
    ctx, raw = alone_context, alone_context.api.raw
    made = {
        "new": ctx.new_stream,
        "default": ctx.default_stream,
        "per thread": ctx.per_thread_stream,
    }
    stream = made[kind]()
    y, launch = adder(stream)
    stream.synchronize()
    params = () if ctx.api.bindings_version < 13000 else (None,)
    status, other = raw.cuCtxCreate(*params, 0, ctx.cu_device)
    assert not status
    raw.cuCtxPopCurrent()
    foreign = other if current == "another library's" else raw.CUcontext(0)

    def work() -> None:
        raw.cuCtxSetCurrent(foreign)
        launch.launch()
        stream.launch_builder(launch.function).args(y, y, 32, 1.0).launch(ONE_WARP)
        ctx.synchronize()

    try:
        on_a_thread(work)
        assert binding.CROWD.is_one
        ctx.bind_to_thread()
        assert ctx.default_stream().clone_dtoh(y).tolist() == [2.0] * 32
    finally:
        raw.cuCtxDestroy(other)
