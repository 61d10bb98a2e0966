"""Slices, views, copies, pinned and unified memory, pools."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext, CudaStream, bfloat16, errors, to_bfloat16


@pytest.mark.parametrize("dtype", ["i1", "u2", "f2", "f4", "i8", "f8", "bfloat16"])
@pytest.mark.parametrize("length", [1, 7, 1000])
def test_round_trip(stream: CudaStream, dtype: str, length: int) -> None:
    element = bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    values = np.arange(length * element.itemsize, dtype=np.uint8).view(element)
    x = stream.clone_htod(values)
    assert (len(x), x.dtype, x.num_bytes) == (length, element, values.nbytes)
    assert stream.clone_dtoh(x).tobytes() == values.tobytes()


def test_alloc_zeros_and_memset(stream: CudaStream) -> None:
    x = stream.alloc_zeros(5, "f4")
    assert stream.clone_dtoh(x).tolist() == [0] * 5
    stream.memset(x[1:3], -2.5)
    assert stream.clone_dtoh(x).tolist() == [0, -2.5, -2.5, 0, 0]
    y = stream.alloc(3, "u2")
    stream.memset(y, 0xABCD)
    assert stream.clone_dtoh(y).tolist() == [0xABCD] * 3


def test_memset_of_eight_bytes_needs_equal_halves(stream: CudaStream) -> None:
    x = stream.alloc(2, "i8")
    stream.memset(x, -1)
    assert stream.clone_dtoh(x).tolist() == [-1, -1]
    with pytest.raises(errors.ArgumentError, match="1 of int64 does not repeat within 4 bytes"):
        stream.memset(x, 1)


def test_views_borrow_parts(stream: CudaStream) -> None:
    x = stream.clone_htod(np.arange(10, dtype=np.int32))
    left, right = x.split_at(4)
    assert (len(left), len(right)) == (4, 6)
    assert stream.clone_dtoh(right[1:-2]).tolist() == [5, 6, 7]
    assert right.device_ptr == x.device_ptr + 16
    assert right[2:].root is x


@pytest.mark.parametrize(
    "part", [slice(0, 11), slice(-11, None), slice(5, 4), slice(None, None, 2)]
)
def test_slicing_out_of_bounds_is_refused_not_clamped(stream: CudaStream, part: slice) -> None:
    x = stream.alloc(10, "f4")
    with pytest.raises(errors.ArgumentError, match="wanted"):
        x[part]
    with pytest.raises(errors.ArgumentError, match="wanted a slice"):
        x[3]  # type: ignore[index]


def test_view_as_another_type(stream: CudaStream) -> None:
    x = stream.clone_htod(np.array([0x3F803F80, 0], np.uint32))
    assert stream.clone_dtoh(x.view("f4"))[1] == 0
    halves = x.view(bfloat16)
    assert len(halves) == 4
    assert stream.clone_dtoh(halves)[:2].tobytes() == to_bfloat16([1, 1]).tobytes()
    odd = x.view("u1")[1:7]
    with pytest.raises(errors.ArgumentError, match="not aligned for uint16"):
        odd.view("u2")
    with pytest.raises(errors.ArgumentError, match="6 bytes; wanted whole uint32s"):
        x.view("u1")[:6].view("u4")


def test_views_keep_the_owner_alive(stream: CudaStream) -> None:
    view = stream.clone_htod(np.arange(4, dtype=np.int32))[2:]
    gc.collect()
    stream.synchronize()
    assert stream.clone_dtoh(view).tolist() == [2, 3]


def test_token_is_unique_and_zero_once_closed(stream: CudaStream) -> None:
    x, y = stream.alloc(4, "f4"), stream.alloc(4, "f4")
    view = x[1:]
    tokens = {x.token, y.token, view.token, x[1:].token}
    assert len(tokens) == 4
    assert 0 not in tokens
    x.close()
    assert (x.token, view.token, x.is_closed, view.is_closed) == (0, 0, True, True)
    assert y.token
    with pytest.raises(errors.ClosedError, match=r"CudaSlice float32\[4\], closed"):
        _ = x.device_ptr
    with pytest.raises(errors.ClosedError, match="CudaView"):
        _ = view.device_ptr


def test_empty_slices(stream: CudaStream) -> None:
    x = stream.alloc(0, "f4")
    assert (len(x), x.num_bytes, bool(x)) == (0, 0, True)
    assert stream.clone_dtoh(x).size == 0
    stream.memset_zeros(x)
    assert stream.null("i4").device_ptr == 0
    x.close()


@pytest.mark.parametrize("length", [-1, 2**63, 1.5, True])
def test_impossible_lengths_are_refused(stream: CudaStream, length: int) -> None:
    with pytest.raises(errors.ArgumentError, match="alloc: len is"):
        stream.alloc(length, "f4")


def test_object_dtype_is_refused(stream: CudaStream) -> None:
    with pytest.raises(errors.ArgumentError, match="dtype is object"):
        stream.alloc(1, object)


def test_copies_want_equal_length_and_type(stream: CudaStream) -> None:
    x = stream.alloc(4, "f4")
    with pytest.raises(
        errors.ArgumentError, match=r"memcpy_htod: src is float32\[3\], dst float32\[4\]"
    ):
        stream.memcpy_htod(np.zeros(3, np.float32), x)
    with pytest.raises(errors.ArgumentError, match=r"memcpy_dtoh: src is float32\[4\], dst int32"):
        stream.memcpy_dtoh(x, np.zeros(4, np.int32))
    with pytest.raises(errors.ArgumentError, match="read-only or not contiguous"):
        stream.memcpy_dtoh(x, np.zeros(8, np.float32)[::2])
    with pytest.raises(errors.ArgumentError, match="memcpy_dtod"):
        stream.memcpy_dtod(x, stream.alloc(4, "i4"))


def test_device_copies(stream: CudaStream) -> None:
    x = stream.clone_htod(np.arange(6, dtype=np.float32))
    y = stream.clone_dtod(x)
    stream.memcpy_dtod(x[:2], y[4:])
    assert stream.clone_dtoh(y).tolist() == [0, 1, 2, 3, 0, 1]


def test_non_contiguous_sources_are_copied_in_order(stream: CudaStream) -> None:
    values = np.arange(12, dtype=np.int16).reshape(3, 4).T
    assert stream.clone_dtoh(stream.clone_htod(values)).tolist() == values.ravel().tolist()


def test_free_follows_the_stream_it_is_closed_on(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    first, second = fake_ctx.new_stream(), fake_ctx.new_stream()
    x, y = first.alloc(4, "f4"), first.alloc(4, "f4")
    x.close()
    y.close(stream=second)
    y.close()
    freed = [int(args[1]) for name, args in fake.calls if name == "cuMemFreeAsync"]
    assert freed == [first.handle, second.handle]


def test_free_waits_for_streams_that_used_the_slice(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    owner, user = fake_ctx.new_stream(), fake_ctx.new_stream()
    x = owner.alloc(4, "f4")
    x.used_on(user)
    x.used_on(owner)  # its own order anyway
    x.close()
    last = [(n, a) for n, a in fake.calls if n in ("cuEventRecord", "cuStreamWaitEvent")]
    assert [name for name, _ in last] == ["cuEventRecord", "cuStreamWaitEvent"]
    assert int(last[0][1][1]) == user.handle
    assert int(last[1][1][0]) == owner.handle
    assert fake.names()[-2:] == ["cuEventDestroy", "cuMemFreeAsync"]


def test_dropped_slice_is_freed_at_the_next_call_and_not_before(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(4, "f4")
    del x
    gc.collect()
    assert fake.count("cuMemFreeAsync") == 0
    stream.synchronize()
    assert fake.names()[-2:] == ["cuMemFreeAsync", "cuStreamSynchronize"]


def test_failed_free_is_recorded_with_its_origin(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(4, "f4")
    origin = f"slice {x.device_ptr:#x}"
    fake.fail("cuMemFreeAsync", "INVALID_VALUE")
    del x
    stream.synchronize()  # does not raise somebody else's error
    (deferred,) = fake_ctx.deferred_errors()
    assert deferred.origin == origin
    assert "cuMemFreeAsync" in str(deferred.error)
    assert fake_ctx.deferred_errors() == []


def test_leak_and_take_ownership(stream: CudaStream) -> None:
    x = stream.clone_htod(np.arange(4, dtype=np.int32))
    ptr = x.leak()
    assert x.is_closed
    again = stream.slice_from_ptr(ptr, 4, "i4", take_ownership=True)
    assert stream.clone_dtoh(again).tolist() == [0, 1, 2, 3]
    again.close()


def test_borrowed_slice_keeps_its_owner_and_frees_nothing(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    class Tensor: ...

    stream, tensor = fake_ctx.new_stream(), Tensor()
    x = stream.slice_from_ptr(0x7000, 8, "f2", owner=tensor)
    assert x.device_ptr == 0x7000
    x.close()
    assert fake.count("cuMemFreeAsync") == 0
    with pytest.raises(errors.ArgumentError, match="ptr is 0x7001; wanted an address aligned"):
        stream.slice_from_ptr(0x7001, 8, "f2")


def test_slices_outlive_their_closed_stream(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(4, "f4")
    stream.close()
    assert fake.count("cuStreamDestroy") == 0
    x.close()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 1
    del x
    fake_ctx.synchronize()
    assert fake.names()[-2:] == ["cuStreamDestroy", "cuCtxSynchronize"]


def test_device_without_pools_frees_after_a_wait(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FakeDriver.attributes, "MEMORY_POOLS_SUPPORTED", 0)
    context = CudaContext.new(0, driver=fake)
    context.new_stream().alloc(4, "f4").close()
    assert fake.names()[-3:] == ["cuMemAlloc", "cuStreamSynchronize", "cuMemFree"]


def test_pinned_memory_round_trip(ctx: CudaContext, stream: CudaStream) -> None:
    src, dst = ctx.alloc_pinned(6, "f4"), ctx.alloc_pinned(6, "f4", write_combined=False)
    src.array[:] = np.arange(6)
    x = stream.clone_htod(src)
    stream.memcpy_dtoh(x, dst)
    assert dst.wait().tolist() == [0, 1, 2, 3, 4, 5]
    src.close()
    src.close()
    with pytest.raises(errors.ClosedError, match="PinnedSlice"):
        src.wait()
    dst.close()


def test_unified_memory_round_trip(ctx: CudaContext, stream: CudaStream) -> None:
    x = ctx.alloc_unified(4, "i4")
    x.numpy()[:] = [1, 2, 3, 4]
    assert stream.clone_dtoh(x[1:]).tolist() == [2, 3, 4]
    stream.memset(x, 9)
    x.attach(stream)
    assert x.numpy().tolist() == [9] * 4
    x.prefetch(stream)
    x.prefetch(stream, to_host=True)
    with pytest.raises(errors.ArgumentError, match="mode is 'both'; wanted one of global, host"):
        x.attach(stream, "both")
    x.close()
    with pytest.raises(errors.ClosedError, match="numpy"):
        x.numpy()


def test_pool_keeps_up_to_its_threshold(ctx: CudaContext, stream: CudaStream) -> None:
    pool = ctx.mem_pool()
    assert pool is ctx.mem_pool()
    assert pool.release_threshold == min(1 << 30, ctx.total_mem // 8)
    pool.release_threshold = 0
    assert pool.release_threshold == 0
    x = stream.alloc(1 << 18, "f4")
    assert pool.stats()["used_bytes"] >= 1 << 20
    x.close()
    stream.synchronize()
    pool.trim(0)
    assert pool.stats()["used_bytes"] == 0
    with pytest.raises(errors.ArgumentError, match="num_bytes is -1"):
        pool.release_threshold = -1


def test_pool_of_ones_own(ctx: CudaContext, stream: CudaStream) -> None:
    with ctx.new_mem_pool(release_threshold=0) as pool:
        x = stream.alloc(1000, "f4", pool=pool)
        assert pool.stats()["used_bytes"] >= 4000
        x.close()
        stream.synchronize()
    with pytest.raises(errors.ClosedError, match="memory pool"):
        stream.alloc(1, "f4", pool=pool)


def test_peer_copy_waits_for_the_source_stream(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    other = CudaContext.new(1, driver=fake)
    source, target = other.new_stream(), fake_ctx.new_stream()
    src, dst = source.alloc(4, "f4"), target.alloc(4, "f4")
    before = len(fake.names())
    target.memcpy_dtod(src, dst)
    assert fake.names()[before:] == [
        "cuEventCreate",
        "cuEventRecord",
        "cuStreamWaitEvent",
        "cuEventDestroy",
        "cuMemcpyPeerAsync",
    ]
    recorded = next(args for name, args in fake.calls[::-1] if name == "cuEventRecord")
    assert int(recorded[1]) == source.handle


def test_external_memory_maps_inside_its_size(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    with fake_ctx.import_external_memory(fd=3, size=4096) as external:
        mapped = external.map("f4", offset=1024, len=16)
        assert len(mapped) == 16
        with pytest.raises(errors.ArgumentError, match="wanted them inside 4096 bytes"):
            external.map("f4", offset=4096, len=1)
    mapped.close()
    assert fake.names()[-2:] == ["cuDestroyExternalMemory", "cuMemFree"]
    with pytest.raises(errors.ClosedError, match="external memory"):
        external.map()


def test_memory_of_another_context_is_refused(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    far = CudaContext.new(1, driver=fake).new_stream().alloc(4, "f4")
    stream = fake_ctx.new_stream()
    host = np.zeros(4, np.float32)
    uses = {
        "memcpy_htod": lambda: stream.memcpy_htod(host, far),
        "memcpy_dtoh": lambda: stream.memcpy_dtoh(far, host),
        "memcpy_dtod": lambda: stream.memcpy_dtod(stream.alloc(4, "f4"), far),
        "memset_zeros": lambda: stream.memset_zeros(far),
        "memset": lambda: stream.memset(far, 1.0),
    }
    for operation, use in uses.items():
        with pytest.raises(errors.WrongContextError, match=rf"^{operation}: <CudaSlice"):
            use()


def test_pinned_memory_serves_the_streams_of_every_context(ctx: CudaContext) -> None:
    host, other = ctx.alloc_pinned(4, "i4"), CudaContext.create(0, driver=ctx.api)
    host.array[:] = 3
    stream = other.new_stream()
    x = stream.clone_htod(host)
    assert host.wait().tolist() == [3] * 4
    assert stream.clone_dtoh(x).tolist() == [3] * 4
    other.close()
    host.close()
