"""Ownership: closing, finalisers, all-or-nothing, threads, fork, interpreter shutdown."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable

import pytest
from helpers.child import USE_AFTER_FORK, run_child
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY

from pyferrum_kv import CudaContext, LaunchConfig, errors

MAKERS: list[tuple[str, Callable[[CudaContext], object], str]] = [
    ("stream", lambda c: c.new_stream(), "cuStreamDestroy"),
    ("event", lambda c: c.new_event(), "cuEventDestroy"),
    ("slice", lambda c: c.default_stream().alloc(4, "f4"), "cuMemFreeAsync"),
    ("pool", lambda c: c.new_mem_pool(), "cuMemPoolDestroy"),
    ("module", lambda c: c.load_module(AXPY), "cuModuleUnload"),
]


@pytest.mark.parametrize(("what", "make", "destroy"), MAKERS, ids=[m[0] for m in MAKERS])
def test_closing_twice_is_closing_once(
    fake: FakeDriver,
    fake_ctx: CudaContext,
    what: str,
    make: Callable[[CudaContext], object],
    destroy: str,
) -> None:
    made = make(fake_ctx)
    made.close()  # type: ignore[attr-defined]
    made.close()  # type: ignore[attr-defined]
    del made
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count(destroy) == 1
    with make(fake_ctx):  # type: ignore[attr-defined]
        pass
    assert fake.count(destroy) == 2


@pytest.mark.parametrize(("what", "make", "destroy"), MAKERS[:4], ids=[m[0] for m in MAKERS[:4]])
def test_a_finaliser_makes_no_driver_call(
    fake: FakeDriver,
    fake_ctx: CudaContext,
    what: str,
    make: Callable[[CudaContext], object],
    destroy: str,
) -> None:
    made = make(fake_ctx)
    before = len(fake.calls)
    del made
    gc.collect()
    assert len(fake.calls) == before
    fake_ctx.synchronize()
    assert fake.count(destroy) == 1


def test_dropped_memory_waits_for_no_launch(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    """A prepared launch, too, gives back what waits: a loop of launches does not hold memory."""
    stream = fake_ctx.new_stream()
    x, dropped = stream.alloc(4, "f4"), stream.alloc(4, "f4")
    function = fake_ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(LaunchConfig(1, 32), x, x, 4, 1.0, stream=stream)
    del dropped
    launch.launch()
    assert fake.count("cuMemFreeAsync") == 1


def test_somebody_elses_capture_makes_a_free_wait(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    x = fake_ctx.new_stream().alloc(4, "f4")
    fake.fail("cuMemFreeAsync", "STREAM_CAPTURE_UNSUPPORTED")
    del x
    fake_ctx.synchronize()
    assert fake_ctx.deferred_errors() == []
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 2


@pytest.mark.parametrize(
    ("fails", "make", "undone"),
    [
        ("cuMemPoolSetAttribute", lambda c: c.new_mem_pool(), "cuMemPoolDestroy"),
        (
            "cuMemsetD8Async",
            lambda c: c.default_stream().alloc_zeros(4, "f4"),
            "cuMemFreeAsync",
        ),
        ("cuEventRecord", lambda c: c.default_stream().record_event(), "cuEventDestroy"),
        ("cuStreamWaitEvent", lambda c: c.default_stream().fork(), "cuStreamDestroy"),
    ],
)
def test_creation_is_all_or_nothing(
    fake: FakeDriver,
    fake_ctx: CudaContext,
    fails: str,
    make: Callable[[CudaContext], object],
    undone: str,
) -> None:
    fake_ctx.mem_pool()
    before = len(fake_ctx.ledger)
    fake.fail(fails, "INVALID_VALUE")
    with pytest.raises(errors.DriverError):
        make(fake_ctx)
    gc.collect()
    fake_ctx.synchronize()
    assert len(fake_ctx.ledger) == before
    assert fake.count(undone) >= 1


def test_many_cycles_leave_nothing(ctx: CudaContext) -> None:
    stream = ctx.new_stream()
    stream.alloc(4, "f4").close()
    stream.synchronize()
    before = len(ctx.ledger)
    used = ctx.mem_pool().stats()["used_bytes"]
    for i in range(500):
        x = stream.alloc(4, "f4")
        if i % 2:
            x.close()
    del x
    stream.synchronize()
    assert len(ctx.ledger) == before
    assert ctx.mem_pool().stats()["used_bytes"] == used
    assert ctx.deferred_errors() == []


def test_dependants_of_a_long_lived_slice_do_not_pile_up(fake_ctx: CudaContext) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(4, "f4")
    function = fake_ctx.load_module(AXPY).function("axpy")
    for _ in range(500):
        function.prepare(LaunchConfig(1, 32), x, x, 4, 1.0, stream=stream)
    assert len(x.dependants) < 100


def test_sixteen_threads_agree_with_one(ctx: CudaContext) -> None:
    """One function, one prepared launch, sixteen threads: every launch arrives, with its own n."""
    stream = ctx.new_stream()
    x = stream.alloc(64, "f4")
    stream.memset(x, 1.0)
    y = stream.alloc_zeros(64, "f4")
    stream.synchronize()
    found: list[object] = []
    start = threading.Barrier(16)

    def work(index: int) -> None:
        start.wait()
        function = ctx.load_module(AXPY).function("axpy")
        found.append(function)
        launch = shared.setdefault(
            "launch", function.prepare(LaunchConfig(1, 64), x, y, 64, 1.0, stream=stream)
        )
        for _ in range(8):
            launch.launch_with([("n", 4 * (index + 1))])

    shared: dict[str, object] = {}
    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(map(id, found))) == 1
    expected = [8.0 * (16 - i // 4) for i in range(64)]
    assert stream.clone_dtoh(y).tolist() == expected


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_is_told_and_the_parent_goes_on() -> None:
    assert run_child("virtual", USE_AFTER_FORK) == (0, "")


@pytest.mark.slow
def test_interpreter_shutdown_is_quiet_and_calls_nothing() -> None:
    body = """
import helpers.fake_driver, atexit
fake = helpers.fake_driver.FakeDriver()
ctx = CudaContext.new(0, driver=fake)
stream = ctx.new_stream()
x = stream.alloc(4, "f4")
cycle = [stream, x]; cycle.append(cycle)
before = len(fake.calls)
atexit.register(lambda: len(fake.calls) == before or os._exit(3))
class Last:
    def __del__(self, fake=fake, before=before, exit=os._exit):
        if len(fake.calls) != before: exit(4)
sys.modules["last"] = Last()
"""
    assert run_child("virtual", body) == (0, "")
