"""Streams and events: order, foreign handles, priorities, timing."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext, CudaStream, errors


class Foreign:
    """Another library's stream, as it hands itself over."""

    def __init__(self, handle: int, version: int = 0) -> None:
        self._pair = (version, handle)

    def __cuda_stream__(self) -> tuple[int, int]:
        return self._pair


def test_default_and_per_thread_streams_are_the_drivers_own(ctx: CudaContext) -> None:
    assert ctx.default_stream() is ctx.default_stream()
    assert ctx.default_stream().handle == 1  # CU_STREAM_LEGACY, whatever 0 means
    assert ctx.per_thread_stream().handle == 2
    for stream in (ctx.default_stream(), ctx.per_thread_stream()):
        x = stream.clone_htod(np.arange(3, dtype=np.int32))
        assert stream.clone_dtoh(x).tolist() == [0, 1, 2]
        stream.close()  # stays what it is
        stream.synchronize()


def test_streams_speak_the_protocol_both_ways(ctx: CudaContext, stream: CudaStream) -> None:
    assert stream.__cuda_stream__() == (0, stream.handle)
    for given in (stream, stream.handle, Foreign(stream.handle)):
        borrowed = ctx.external_stream(given)
        assert borrowed.handle == stream.handle
        borrowed.synchronize()
        borrowed.close()
    stream.synchronize()  # closing what was borrowed ended nothing


def test_foreign_streams_that_cannot_be_used_are_refused(
    ctx: CudaContext, stream: CudaStream
) -> None:
    with pytest.raises(errors.ArgumentError, match="version 1; wanted 0"):
        ctx.external_stream(Foreign(stream.handle, version=1))
    with pytest.raises(errors.ArgumentError, match="stream is str; wanted an integer handle"):
        ctx.external_stream("torch")
    other = CudaContext.create(0, driver=ctx.api)
    with pytest.raises(errors.WrongContextError, match="belongs to context"):
        other.external_stream(stream.handle)
    other.close()


def test_external_stream_is_never_destroyed(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    borrowed = fake_ctx.external_stream(0x5000)
    borrowed.close()
    fake_ctx.close()
    assert fake.count("cuStreamDestroy") == 0


def test_priorities_reach_the_driver(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    fake_ctx.new_stream(priority=-5)
    assert fake.calls[-1] == ("cuStreamCreateWithPriority", (1, -5))  # 1: CU_STREAM_NON_BLOCKING


def test_fork_starts_after_its_origin_and_join_ends_it(ctx: CudaContext) -> None:
    main = ctx.new_stream()
    x = main.clone_htod(np.arange(4, dtype=np.int32))
    side = main.fork()
    y = side.clone_dtod(x)
    main.join(side)
    assert main.clone_dtoh(y).tolist() == [0, 1, 2, 3]
    side.close()


def test_wait_takes_events_and_streams(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    first, second = fake_ctx.new_stream(), fake_ctx.new_stream()
    second.wait(first.record_event())
    second.wait(first)
    second.join(second)  # nothing to wait for
    assert fake.count("cuStreamWaitEvent") == 2


def test_closed_stream_refuses_work(stream: CudaStream) -> None:
    stream.close()
    stream.close()
    with pytest.raises(errors.ClosedError, match=r"stream 0x\w+ is closed"):
        stream.synchronize()
    with pytest.raises(errors.ClosedError):
        stream.alloc(1, "f4")
    assert "closed" in repr(stream)


def test_is_done_raises_on_a_real_error(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream, event = fake_ctx.new_stream(), fake_ctx.new_event()
    event.record(stream)
    fake.fail("cuEventQuery", "NOT_READY")
    fake.fail("cuStreamQuery", "NOT_READY")
    assert (event.is_done, stream.is_done) == (False, False)
    assert (event.is_done, stream.is_done) == (True, True)
    fake.fail("cuEventQuery", "LAUNCH_FAILED")
    with pytest.raises(errors.ContextLost, match="cuEventQuery"):
        _ = event.is_done


def test_events_time_in_milliseconds(ctx: CudaContext, stream: CudaStream) -> None:
    start, end = ctx.new_event(timing=True), ctx.new_event(timing=True)
    start.record(stream)
    stream.memset_zeros(stream.alloc(1000, "f4"))
    stream.record_event(end)
    end.synchronize()
    assert end - start == start.elapsed_ms(end)
    assert 0 <= end - start < 10_000
    untimed = stream.record_event()
    with pytest.raises(errors.ArgumentError, match="end event keeps no time; wanted"):
        start.elapsed_ms(untimed)


def test_closed_event_is_refused(ctx: CudaContext, stream: CudaStream) -> None:
    with ctx.new_event() as event:
        event.record(stream)
    event.close()
    with pytest.raises(errors.ClosedError, match=r"event 0x\w+ is closed"):
        event.synchronize()


def test_call_on_host_runs_in_order_and_records_what_it_raises(
    ctx: CudaContext, stream: CudaStream
) -> None:
    seen: list[int] = []
    stream.call_on_host(lambda: seen.append(1))
    stream.call_on_host(lambda: seen.append(1 // 0))
    stream.call_on_host(lambda: seen.append(2))
    stream.synchronize()
    assert seen == [1, 2]
    (deferred,) = ctx.deferred_errors()
    assert deferred.origin.startswith("call_on_host(")
    assert isinstance(deferred.error, ZeroDivisionError)
