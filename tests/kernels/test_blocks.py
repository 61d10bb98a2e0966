"""copy_blocks and swap_blocks: codes and scales of K and V together, whatever the sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers.kv_cache import Guarded

from pyferrum_kv import ArgumentError, CaptureError, ClosedError, CudaContext, CudaStream, reference
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    check_block_pairs,
    copy_blocks,
    int8_kv_cache_append,
    swap_blocks,
)

LAYOUTS = [
    KvLayout(6, 16, 2, 64),
    KvLayout(6, 1, 1, 8),  # a scale of 2 bytes, a row of 8
    KvLayout(6, 3, 1, 24),  # no multiple of 16 bytes
    KvLayout(6, 5, 8, 128),
    KvLayout(5, 64, 8, 128),  # several parts
    KvLayout(5, 17, 8, 136),  # and a part that is not whole
]


def filled(rng: np.random.Generator, layout: KvLayout) -> list[np.ndarray]:
    shape = (layout.num_blocks, layout.block_size, layout.num_kv_heads)
    codes = [rng.integers(-128, 128, (*shape, layout.head_dim), dtype=np.int8) for _ in "kv"]
    return codes + [rng.standard_normal(shape).astype(np.float16) for _ in "kv"]


def to_device(stream: CudaStream, layout: KvLayout, arrays: list[np.ndarray]) -> Int8KvPools:
    """Pools between guards: what is written outside shows in read()."""
    made = [Guarded(stream, array.size, array.dtype) for array in arrays]
    for guarded, array in zip(made, arrays, strict=True):
        stream.memcpy_htod(array.ravel(), guarded.slice)
    pools = Int8KvPools(layout, *(guarded.slice for guarded in made))
    object.__setattr__(pools, "guarded", made)
    return pools


def to_host(ctx: CudaContext, layout: KvLayout, arrays: list[np.ndarray]) -> Int8KvPools:
    pools = Int8KvPools.allocate_pinned(ctx, layout)
    for memory, array in zip(pools.slices, arrays, strict=True):
        memory.array[:] = array.ravel()
    return pools


def contents(pools: Int8KvPools) -> list[np.ndarray]:
    if hasattr(pools, "guarded"):
        return [guarded.read() for guarded in pools.guarded]
    return [memory.wait() for memory in pools.slices]


def assert_holds(pools: Int8KvPools, arrays: list[np.ndarray]) -> None:
    for got, wanted in zip(contents(pools), arrays, strict=True):
        np.testing.assert_array_equal(got.view(np.uint8), wanted.ravel().view(np.uint8))


def pairs_of(stream: CudaStream, pairs: object):
    return stream.clone_htod(np.array(pairs, np.int32).ravel())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_copy_blocks_moves_codes_and_scales(stream, rng, layout):
    arrays = filled(rng, layout)
    pools = to_device(stream, layout, arrays)
    pairs = [(0, 3), (4, 2), (0, 1)]
    copy_blocks(stream, pools, pairs_of(stream, pairs))
    reference.copy_blocks(arrays, np.array(pairs, np.int32))
    assert_holds(pools, arrays)
    np.testing.assert_array_equal(arrays[2][3], arrays[2][0])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("way", ["out", "in", "across"])
def test_swap_blocks_moves_them_from_pools_to_pools(ctx, stream, rng, layout, way):
    larger = KvLayout(9, layout.block_size, layout.num_kv_heads, layout.head_dim)
    from_arrays, to_arrays = filled(rng, layout), filled(rng, larger)
    on_host = {"out": (False, True), "in": (True, False), "across": (False, False)}[way]
    src, dst = (
        to_host(ctx, of, arrays) if host else to_device(stream, of, arrays)
        for of, arrays, host in zip(
            (layout, larger), (from_arrays, to_arrays), on_host, strict=True
        )
    )
    pairs = [(4, 8), (1, 0), (0, 4), (1, 5)]
    swap_blocks(stream, src, dst, pairs_of(stream, pairs))
    reference.swap_blocks(from_arrays, to_arrays, np.array(pairs, np.int32))
    assert_holds(dst, to_arrays)
    assert_holds(src, from_arrays)


def test_out_and_back_in_again_is_where_it_was(ctx, stream, rng):
    layout = KvLayout(4, 16, 2, 32)
    arrays = filled(rng, layout)
    pools, host = to_device(stream, layout, arrays), Int8KvPools.allocate_pinned(ctx, layout)
    swap_blocks(stream, pools, host, pairs_of(stream, [(0, 2), (3, 1)]))
    for memory in pools.slices:
        stream.memset_zeros(memory)
    swap_blocks(stream, host, pools, pairs_of(stream, [(2, 0), (1, 3)]))
    for array in arrays:
        array[1:3] = 0
    assert_holds(pools, arrays)


@pytest.mark.parametrize("outside", [-1, 6, 2**31 - 1, -(2**31)])
def test_a_pair_with_a_block_outside_copies_nothing(ctx, stream, rng, outside):
    layout = LAYOUTS[0]
    arrays = filled(rng, layout)
    pools = to_device(stream, layout, arrays)
    pairs = [(outside, 0), (1, 2), (3, outside)]
    copy_blocks(stream, pools, pairs_of(stream, pairs))
    reference.copy_blocks(arrays, np.array(pairs, np.int32))
    assert_holds(pools, arrays)


def test_num_pairs_may_be_fewer_and_none_is_no_launch(stream, rng):
    layout = LAYOUTS[0]
    arrays = filled(rng, layout)
    pools = to_device(stream, layout, arrays)
    pairs = pairs_of(stream, [(0, 1), (2, 3)])
    copy_blocks(stream, pools, pairs, num_pairs=0)
    copy_blocks(stream, pools, stream.alloc(0, np.int32))
    assert_holds(pools, arrays)
    copy_blocks(stream, pools, pairs, num_pairs=1)
    reference.copy_blocks(arrays, np.array([(0, 1)], np.int32))
    assert_holds(pools, arrays)


def test_a_captured_swap_follows_its_pairs(ctx, stream, rng):
    layout = KvLayout(4, 2, 1, 16)
    arrays = filled(rng, layout)
    pools, host = to_device(stream, layout, arrays), Int8KvPools.allocate_pinned(ctx, layout)
    pairs = pairs_of(stream, [(0, 0), (-1, -1)])
    swap_blocks(stream, pools, host, pairs)
    with stream.capture() as graph:
        swap_blocks(stream, pools, host, pairs)
    stream.memcpy_htod(np.array([2, 3, 1, 1], np.int32), pairs)
    graph.launch(stream)
    stream.synchronize()
    wanted = [np.zeros_like(array) for array in arrays]
    reference.swap_blocks(arrays, wanted, np.array([(0, 0), (2, 3), (1, 1)], np.int32))
    assert_holds(host, wanted)


def test_tokens_appended_to_a_copy_leave_the_original_alone(stream, rng):
    """Copy-on-write of a block that two sequences share."""
    layout = KvLayout(3, 4, 1, 16)
    pools = Int8KvPools.allocate(stream, layout)
    k = stream.clone_htod(rng.standard_normal(5 * 16).astype(np.float16))
    slots = stream.clone_htod(np.array([0, 1, 2, 3, 10], np.int32))
    int8_kv_cache_append(stream, k[: 3 * 16], k[: 3 * 16], pools, slots[:3])
    copy_blocks(stream, pools, pairs_of(stream, [(0, 2)]))
    int8_kv_cache_append(stream, k[3 * 16 : 4 * 16], k[3 * 16 : 4 * 16], pools, slots[4:])
    codes = stream.clone_dtoh(pools.k_pool).reshape(12, 16)
    np.testing.assert_array_equal(codes[:2], codes[8:10])
    assert not (codes[10] == codes[2]).all()


def test_swap_blocks_refuses_pools_that_are_not_alike_or_overlap(stream):
    pools = Int8KvPools.allocate(stream, KvLayout(4, 4, 2, 16))
    pairs = pairs_of(stream, [(0, 1)])
    for name, layout in (
        ("block_size", KvLayout(4, 8, 2, 16)),
        ("num_kv_heads", KvLayout(4, 4, 1, 16)),
        ("head_dim", KvLayout(4, 4, 2, 8)),
    ):
        other = Int8KvPools.allocate(stream, layout)
        with pytest.raises(ArgumentError, match=f"swap_blocks: {name} is .* in src and .* in dst"):
            swap_blocks(stream, pools, other, pairs)
    other = Int8KvPools.allocate(stream, pools.layout)
    shared = Int8KvPools(pools.layout, *other.slices[:3], pools.v_scales)
    with pytest.raises(ArgumentError, match=r"dst\.v_scales at .* overlaps src\.v_scales"):
        swap_blocks(stream, pools, shared, pairs)


def test_copy_blocks_refuses_wrong_pairs_and_closed_pools(ctx, stream):
    pools = Int8KvPools.allocate(stream, KvLayout(4, 4, 2, 16))
    with pytest.raises(ArgumentError, match="block_pairs has 3 elements; wanted"):
        copy_blocks(stream, pools, stream.alloc_zeros(3, np.int32))
    with pytest.raises(ArgumentError, match="block_pairs has 2 elements; wanted at least 4"):
        copy_blocks(stream, pools, stream.alloc_zeros(2, np.int32), num_pairs=2)
    with pytest.raises(ArgumentError, match="num_pairs is -1; wanted 0 to"):
        copy_blocks(stream, pools, stream.alloc_zeros(2, np.int32), num_pairs=-1)
    with pytest.raises(ArgumentError, match="block_pairs is a slice of float32; wanted int32"):
        copy_blocks(stream, pools, stream.alloc_zeros(2, np.float32))
    with pytest.raises(ArgumentError, match="block_pairs is ndarray; wanted a slice of int32"):
        copy_blocks(stream, pools, np.zeros(2, np.int32))
    pairs = pairs_of(stream, [(0, 1)])
    copy_blocks(stream, pools, pairs)
    pools.v_scales.close()
    with pytest.raises(ClosedError, match=r"v_scales is .*closed"):
        copy_blocks(stream, pools, pairs)


@pytest.fixture
def small(stream: CudaStream) -> Iterator[Int8KvPools]:
    with Int8KvPools.allocate(stream, KvLayout(4, 1, 1, 8)) as pools:
        yield pools


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(0, 1), (4, 2)], r"block_pairs\[1, 0\] is 4; wanted -1 or 0 to 3"),
        ([(0, -2)], r"block_pairs\[0, 1\] is -2; wanted -1 or 0 to 3"),
        ([(0, 2), (-1, 2), (1, 2)], r"block_pairs\[0, 1\] and \[2, 1\] are both 2; wanted dist"),
        ([(0, 1), (1, 2)], r"block_pairs\[1, 0\] and \[0, 1\] are both 1; wanted no block that"),
    ],
)
def test_debug_mode_finds_pairs_that_are_wrong(stream, small, pairs, message):
    with pytest.raises(ArgumentError, match=f"copy_blocks: {message}"):
        copy_blocks(stream, small, pairs_of(stream, pairs), debug=True)


def test_debug_mode_passes_what_is_right(stream, small, monkeypatch):
    monkeypatch.setattr("pyferrum_kv.int8_kv.debug.ENABLED", True)
    copy_blocks(stream, small, pairs_of(stream, [(0, 1), (-1, 2), (0, 2), (3, 3)]))
    other = Int8KvPools.allocate(stream, KvLayout(8, 1, 1, 8))
    swap_blocks(stream, small, other, pairs_of(stream, [(1, 2), (2, 1), (1, 7)]))
    with pytest.raises(ArgumentError, match=r"swap_blocks: block_pairs\[0, 1\] is 4; wanted -1"):
        swap_blocks(stream, other, small, pairs_of(stream, [(7, 4)]))
    pairs = pairs_of(stream, [(0, 1)])
    check_block_pairs(stream, pairs, num_blocks=(1, 2))
    with stream.capture(), pytest.raises(CaptureError, match="copy_blocks: the debug mode waits"):
        copy_blocks(stream, small, pairs)
