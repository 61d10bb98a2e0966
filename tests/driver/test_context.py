"""Contexts: opening, binding, facts, loss, closing."""

from __future__ import annotations

import gc
import threading

import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext, LaunchConfig, errors
from pyferrum_kv.driver import open_driver


def test_same_object_for_an_ordinal_and_driver(ctx: CudaContext) -> None:
    assert CudaContext.new(0, driver=ctx.api) is ctx
    assert ctx.is_primary
    assert ctx.state == "ok"


def test_two_devices_have_two_contexts(fake: FakeDriver) -> None:
    first, second = CudaContext.new(0, driver=fake), CudaContext.new(1, driver=fake)
    assert first is not second
    assert (first.ordinal, second.ordinal) == (0, 1)


def test_with_restores_what_was_current(ctx: CudaContext) -> None:
    created = CudaContext.create(0, driver=ctx.api)
    ctx.bind_to_thread()
    with created:
        assert CudaContext.current(driver=ctx.api).handle == created.handle
        with ctx:
            assert CudaContext.current(driver=ctx.api) is ctx
        assert CudaContext.current(driver=ctx.api).handle == created.handle
    assert CudaContext.current(driver=ctx.api) is ctx
    created.close()


def test_with_restores_no_context(ctx: CudaContext) -> None:
    seen = []

    def other_thread() -> None:
        seen.append(CudaContext.current(driver=ctx.api))
        with ctx:
            seen.append(CudaContext.current(driver=ctx.api))
        seen.append(CudaContext.current(driver=ctx.api))

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert seen == [None, ctx, None]


def test_any_thread_may_call(ctx: CudaContext) -> None:
    made = []
    thread = threading.Thread(target=lambda: made.append(ctx.new_stream().alloc_zeros(4, "f4")))
    thread.start()
    thread.join()
    assert len(made[0]) == 4


def test_created_context_is_not_the_primary_one(ctx: CudaContext) -> None:
    created = CudaContext.create(0, driver=ctx.api)
    assert created.handle != ctx.handle
    assert not created.is_primary
    assert len(created.new_stream().alloc_zeros(3, "i4")) == 3
    created.close()
    ctx.synchronize()


def test_adopted_context_is_borrowed(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    adopted = CudaContext.from_handle(fake_ctx.handle, driver=fake)
    assert adopted.handle == fake_ctx.handle
    adopted.close()
    assert "cuCtxDestroy" not in fake.names()
    assert fake_ctx.state == "ok"


def test_adopting_nothing_is_refused(fake: FakeDriver) -> None:
    with pytest.raises(errors.ArgumentError, match="handle is 0; wanted a CUcontext's address"):
        CudaContext.from_handle(0, driver=fake)


def test_facts(ctx: CudaContext) -> None:
    assert ctx.compute_capability >= (7, 5)
    assert ctx.uuid.startswith("GPU-")
    assert len(ctx.uuid) == 40
    assert ctx.name
    free, total = ctx.mem_info()
    assert 0 < free <= total == ctx.total_mem
    assert ctx.attribute("WARP_SIZE") == 32
    assert ctx.stream_priority_range[0] >= ctx.stream_priority_range[1]


def test_limits_and_settings(ctx: CudaContext) -> None:
    ctx.set_limit("PRINTF_FIFO_SIZE", 1 << 21)
    assert ctx.get_limit("PRINTF_FIFO_SIZE") >= 1 << 21
    assert ctx.get_cache_config() in ("none", "shared", "l1", "equal")
    with pytest.raises(errors.ArgumentError, match=r"no member; wanted one of .*PRINTF_FIFO_SIZE"):
        ctx.get_limit("PRINTF")
    with pytest.raises(errors.ArgumentError, match="schedule is 'lazy'; wanted one of auto"):
        ctx.set_flags(schedule="lazy")  # type: ignore[arg-type]


def test_use_after_close_is_refused_and_a_new_one_opens(fake: FakeDriver) -> None:
    context = CudaContext.new(0, driver=fake)
    stream = context.new_stream()
    context.close()
    context.close()
    assert fake.count("cuDevicePrimaryCtxRelease") == 1
    with pytest.raises(errors.ClosedError, match=r"cuStreamSynchronize: .* closed"):
        stream.synchronize()
    assert CudaContext.new(0, driver=fake) is not context


def test_close_gives_back_newest_first(fake: FakeDriver) -> None:
    context = CudaContext.new(0, driver=fake)
    stream = context.new_stream()
    kept = [stream.alloc(8, "f4"), context.new_event(), stream]
    before = len(fake.names())
    context.close()
    assert fake.names()[before:] == [
        "cuCtxSynchronize",
        "cuEventDestroy",
        "cuMemFreeAsync",
        "cuMemPoolDestroy",
        "cuStreamDestroy",
        "cuDevicePrimaryCtxRelease",
    ]
    assert len(kept) == 3  # held until here: nothing was given back by a finaliser


def test_failing_creation_leaves_nothing(fake: FakeDriver) -> None:
    fake.fail("cuDevicePrimaryCtxRetain", "OUT_OF_MEMORY")
    with pytest.raises(errors.DriverError):
        CudaContext.new(0, driver=fake)
    assert open_driver(fake).primaries == {}
    assert CudaContext.new(0, driver=fake).state == "ok"


def test_dropped_created_context_is_destroyed_at_the_next_opening(fake: FakeDriver) -> None:
    first = CudaContext.new(0, driver=fake)
    created = CudaContext.create(0, driver=fake)
    del created
    gc.collect()
    assert fake.count("cuCtxDestroy") == 0
    CudaContext.new(1, driver=fake)
    assert fake.count("cuCtxDestroy") == 1
    assert first.state == "ok"


def test_sticky_error_loses_the_context_with_cause_and_kernel(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    from helpers.kernels import AXPY

    stream = fake_ctx.new_stream()
    x = stream.alloc(4, "f4")
    function = fake_ctx.load_module(AXPY).function("axpy")
    stream.launch_builder(function).args(x, x, 4, 2.0).launch(LaunchConfig(1, 32))
    fake.fail("cuStreamSynchronize", "ILLEGAL_ADDRESS")
    with pytest.raises(errors.ContextLost, match=r"after the launch of axpy grid \(1, 1, 1\)"):
        stream.synchronize()
    assert fake_ctx.state == "lost"
    calls = len(fake.calls)
    with pytest.raises(errors.ContextLost) as caught:
        fake_ctx.new_stream()
    assert len(fake.calls) == calls  # at once, without asking the driver
    assert caught.value.code == 700
    assert "CUDA_ERROR_ILLEGAL_ADDRESS at cuStreamSynchronize" in caught.value.first_cause
    x.close()
    fake_ctx.close()
    assert fake.count("cuMemFreeAsync") == 0  # of a lost context there is nothing to give back


def test_lost_context_closes_quietly(fake: FakeDriver) -> None:
    context = CudaContext.new(0, driver=fake)
    fake.fail("cuCtxSynchronize", "LAUNCH_FAILED", times=9)
    with pytest.raises(errors.ContextLost):
        context.synchronize()
    fake.fail("cuDevicePrimaryCtxRelease", "LAUNCH_FAILED")
    context.close()
    assert context.state == "closed"
    assert [origin for origin, _ in context.deferred_errors()] == [repr(context)]


def test_orders_of_two_contexts_do_not_mix(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    other = CudaContext.new(1, driver=fake)
    event = fake_ctx.new_event()
    with pytest.raises(errors.WrongContextError, match=r"event\.record"):
        event.record(other.new_stream())


def test_peer_access_lets_launches_take_the_others_memory(fake: FakeDriver) -> None:
    from helpers.kernels import AXPY

    here, there = CudaContext.new(0, driver=fake), CudaContext.new(1, driver=fake)
    far = there.new_stream().alloc(4, "f4")
    function = here.load_module(AXPY).function("axpy")
    signature_takes_any = (far, far, 4, 1.0)
    with pytest.raises(errors.WrongContextError, match="enable_peer_access"):
        function.bind(signature_takes_any)
    fake.fail("cuCtxEnablePeerAccess", "PEER_ACCESS_ALREADY_ENABLED")
    here.enable_peer_access(there)
    assert fake.count("cuMemPoolSetAccess") == 1
    function.bind(signature_takes_any)


def test_attachments_live_as_long_as_the_context(fake: FakeDriver) -> None:
    context = CudaContext.new(0, driver=fake)
    context.attachments["mine"] = 1
    context.close()
    assert context.attachments == {}


def test_profile_brackets_a_block(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    with fake_ctx.profile():
        fake_ctx.synchronize()
    assert fake.names()[-3:] == ["cuProfilerStart", "cuCtxSynchronize", "cuProfilerStop"]


def test_with_survives_the_close_of_what_it_would_restore(ctx: CudaContext) -> None:
    created = CudaContext.create(0, driver=ctx.api)
    with ctx:
        created.close()
    assert CudaContext.current(driver=ctx.api) is None
