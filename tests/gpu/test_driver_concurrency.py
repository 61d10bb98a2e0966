"""What only hardware shows: work that overlaps, threads that race, memory that comes back."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from helpers.kernels import AXPY, SPIN

from pyferrum_kv import CudaContext, CudaStream, LaunchConfig, PreparedLaunch, device_count

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu_ctx")]

SPIN_MS = 50


def spinner(stream: CudaStream) -> PreparedLaunch:
    """One thread, busy for SPIN_MS."""
    function = stream.context.load_module(SPIN).function("spin")
    return function.prepare(LaunchConfig(1, 1), SPIN_MS * 1_000_000, stream=stream)


def elapsed_ms(context: CudaContext, launches: list[PreparedLaunch]) -> float:
    context.synchronize()
    start = time.perf_counter()
    for launch in launches:
        launch.launch()
    context.synchronize()
    return 1000 * (time.perf_counter() - start)


@pytest.mark.alone
def test_streams_overlap_and_one_stream_does_not(gpu_ctx: CudaContext) -> None:
    streams = [gpu_ctx.new_stream() for _ in range(4)]
    elapsed_ms(gpu_ctx, [spinner(streams[0])])
    assert elapsed_ms(gpu_ctx, [spinner(s) for s in streams]) < 2 * SPIN_MS
    assert elapsed_ms(gpu_ctx, [spinner(streams[0]) for _ in range(3)]) >= 3 * SPIN_MS


@pytest.mark.alone
def test_join_orders_what_would_overlap(gpu_ctx: CudaContext) -> None:
    first, second = gpu_ctx.new_stream(), gpu_ctx.new_stream()
    one, two = spinner(first), spinner(second)
    gpu_ctx.synchronize()
    start = time.perf_counter()
    one.launch()
    second.join(first)
    two.launch()
    gpu_ctx.synchronize()
    assert 1000 * (time.perf_counter() - start) >= 2 * SPIN_MS


@pytest.mark.alone
def test_launches_and_pinned_copies_return_before_they_happen(gpu_ctx: CudaContext) -> None:
    stream = gpu_ctx.new_stream()
    launch, host = spinner(stream), gpu_ctx.alloc_pinned(1024, "f4")
    x = stream.alloc_zeros(1024, "f4")
    stream.synchronize()
    start = time.perf_counter()
    launch.launch()
    stream.memcpy_dtoh(x, host)
    queued_ms = 1000 * (time.perf_counter() - start)
    assert not stream.is_done
    host.wait()
    assert queued_ms < SPIN_MS / 2
    assert stream.is_done


@pytest.mark.alone
def test_events_time_what_ran(gpu_ctx: CudaContext) -> None:
    stream = gpu_ctx.new_stream()
    launch = spinner(stream)
    launch.launch()
    start, end = gpu_ctx.new_event(timing=True), gpu_ctx.new_event(timing=True)
    start.record(stream)
    launch.launch()
    end.record(stream)
    assert not end.is_done
    end.synchronize()
    assert SPIN_MS <= end - start < 1.5 * SPIN_MS


def test_a_free_waits_for_the_streams_that_used_the_slice(gpu_ctx: CudaContext) -> None:
    owner, user = gpu_ctx.new_stream(), gpu_ctx.new_stream()
    x = owner.clone_htod(np.full(1 << 20, 5, np.int32))
    y = user.alloc(1 << 20, "i4")
    user.join(owner)
    spinner(user).launch()
    user.memcpy_dtod(x, y)
    x.used_on(user)
    x.close()
    again = owner.alloc(1 << 20, "i4")  # the pool may hand the same memory out, but only later
    owner.memset(again, 9)
    assert (user.clone_dtoh(y) == 5).all()


def test_sixteen_threads_agree_with_one(gpu_ctx: CudaContext) -> None:
    stream = gpu_ctx.new_stream()
    x, y = stream.alloc(64, "f4"), stream.alloc_zeros(64, "f4")
    stream.memset(x, 1.0)
    function = gpu_ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(LaunchConfig(1, 64), x, y, 64, 1.0, stream=stream)
    start = threading.Barrier(16)

    def work(index: int) -> None:
        start.wait()
        assert gpu_ctx.load_module(AXPY).function("axpy") is function
        for _ in range(500):
            launch.launch_with([("n", 4 * (index + 1))])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [500.0 * (16 - i // 4) for i in range(64)]
    assert stream.clone_dtoh(y).tolist() == expected


@pytest.mark.alone
def test_ten_thousand_cycles_return_the_memory() -> None:
    context = CudaContext.create(0, driver="cuda")

    def cycle(i: int) -> None:
        stream = context.new_stream()
        x = stream.alloc(1 << 18, "f4")
        event = stream.record_event()
        host = context.alloc_pinned(256, "f4") if i % 50 == 0 else None
        if i % 2:
            x.close()
            event.close()
            stream.close()
            if host is not None:
                host.close()

    def free_bytes() -> int:
        gc.collect()
        context.synchronize()
        context.mem_pool().trim(0)
        return context.mem_info()[0]

    for i in range(200):
        cycle(i)
    lost = []
    for _ in range(3):  # a leak loses memory each time; what else runs on the device, by chance
        before = free_bytes()
        for i in range(10_000):
            cycle(i)
        lost.append(before - free_bytes())
        if lost[-1] <= 2 << 20:
            break
    stats = context.mem_pool().stats()
    assert (stats["used_bytes"], stats["reserved_bytes"]) == (0, 0)
    assert context.deferred_errors() == []
    assert len(context.ledger) <= 1  # the pool
    context.close()
    assert min(lost) <= 2 << 20


def test_pool_keeps_memory_until_trimmed(gpu_ctx: CudaContext) -> None:
    stream, pool = gpu_ctx.new_stream(), gpu_ctx.mem_pool()
    stream.alloc(64 << 20, "u1").close()
    stream.synchronize()
    assert pool.stats()["reserved_bytes"] >= 64 << 20
    pool.trim(0)
    assert pool.stats()["reserved_bytes"] == 0


def test_copy_between_devices_waits_for_its_source() -> None:
    if device_count("cuda") < 2:
        pytest.skip("needs two devices")
    here, there = CudaContext.new(0, driver="cuda"), CudaContext.new(1, driver="cuda")
    source, target = there.new_stream(), here.new_stream()
    x = source.alloc_zeros(1 << 20, "i4")
    spinner(source).launch()
    source.memset(x, 7)
    y = target.alloc(1 << 20, "i4")
    target.memcpy_dtod(x, y)
    assert (target.clone_dtoh(y) == 7).all()
    here.enable_peer_access(there)
    function = here.load_module(AXPY).function("axpy")
    far, near = there.default_stream().alloc_zeros(4, "f4"), target.alloc_zeros(4, "f4")
    there.default_stream().memset(far, 2.0)
    there.synchronize()
    target.launch_builder(function).args(far, near, 4, 3.0).launch(LaunchConfig(1, 32))
    assert target.clone_dtoh(near).tolist() == [6.0] * 4
    here.close()
    there.close()
