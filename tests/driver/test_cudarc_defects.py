"""One test for each defect seen in the layer that this one is modelled on."""

from __future__ import annotations

import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY

from pyferrum_kv import CudaContext, CudaEvent, LaunchConfig, errors


def test_single_stream_copies_record_no_events(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc_zeros(4, "f4")
    stream.clone_dtod(x)
    stream.clone_dtoh(x)
    assert not {"cuEventCreate", "cuEventRecord", "cuStreamWaitEvent"} & set(fake.names())


def test_a_stored_error_does_not_surface_at_an_unrelated_call(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    for _ in range(3):
        x = fake_ctx.default_stream().alloc(4, "f4")
        fake.fail("cuMemFreeAsync", "INVALID_VALUE")
        del x
        fake_ctx.synchronize()
    assert len(fake_ctx.deferred_errors()) == 3  # all are kept, not the last only


@pytest.mark.parametrize("operation", ["function", "set_attribute", "set_cache_config"])
def test_every_module_call_binds_its_context_first(fake: FakeDriver, operation: str) -> None:
    context, other = CudaContext.new(0, driver=fake), CudaContext.new(1, driver=fake)
    module = context.load_module(AXPY)
    function = module.function("axpy") if operation != "function" else None
    other.bind_to_thread()
    calls = {
        "function": "cuModuleGetFunction",
        "set_attribute": "cuFuncSetAttribute",
        "set_cache_config": "cuFuncSetCacheConfig",
    }
    seen: list[int] = []
    fake.before[calls[operation]] = lambda: seen.append(int(fake._cuCtxGetCurrent()[0]))
    if function is None:
        module.function("axpy")
    elif operation == "set_attribute":
        function.set_attribute("PREFERRED_SHARED_MEMORY_CARVEOUT", 50)
    else:
        function.set_cache_config("l1")
    assert seen == [context.handle]


def poll(event: CudaEvent) -> None:
    while not event.is_done:
        pass


def test_polling_an_event_ends_on_a_lost_context(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    event = fake_ctx.default_stream().record_event()
    fake.fail("cuEventQuery", "ILLEGAL_ADDRESS")
    with pytest.raises(errors.ContextLost):
        poll(event)


def test_failed_stream_leaves_the_context_as_it_was(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    before = len(fake_ctx.ledger)
    fake.fail("cuStreamCreateWithPriority", "OUT_OF_MEMORY")
    with pytest.raises(errors.DriverError):
        fake_ctx.new_stream()
    assert len(fake_ctx.ledger) == before
    assert fake_ctx.state == "ok"


def test_captured_launches_record_no_events(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(4, "f4")
    function = fake_ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(LaunchConfig(1, 32), x, x, 4, 1.0, stream=stream)
    with stream.capture():
        launch.launch()
        stream.memset_zeros(x)
    assert "cuEventRecord" not in fake.names()


def test_lengths_and_names_are_errors_not_crashes(ctx: CudaContext) -> None:
    stream = ctx.new_stream()
    with pytest.raises(errors.ArgumentError):
        stream.memcpy_dtod(stream.alloc(3, "f4"), stream.alloc(4, "f4"))
    with pytest.raises(errors.EntryNotFound, match="has no entry"):
        ctx.load_module(AXPY).function("axpy\0tail")


def test_pinned_memory_is_cached_unless_asked_otherwise(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    fake.fail("cuMemHostAlloc", "OUT_OF_MEMORY", times=2)
    for write_combined, flags in ((False, 1), (True, 5)):
        with pytest.raises(errors.DriverError):
            fake_ctx.alloc_pinned(4, "f4", write_combined)
        assert fake.calls[-1] == ("cuMemHostAlloc", (16, flags))
