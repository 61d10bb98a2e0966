"""int8_kv_cache_append, bit for bit against the reference quantiser."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kv_cache import Guarded, random_half

from pyferrum_kv import CudaStream, reference, to_bfloat16
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, int8_kv_cache_append


def guarded_pools(stream: CudaStream, layout: KvLayout) -> tuple[Int8KvPools, list[Guarded]]:
    codes = [Guarded(stream, layout.num_codes, np.int8) for _ in "kv"]
    scales = [Guarded(stream, layout.num_scales, np.float16) for _ in "kv"]
    made = codes + scales
    return Int8KvPools(layout, *(guarded.slice for guarded in made)), made


def append_both(
    stream: CudaStream, layout: KvLayout, k: np.ndarray, v: np.ndarray, slots: np.ndarray
) -> None:
    """Append on the device and in the reference, to pools with the same contents, and compare."""
    pools, guarded = guarded_pools(stream, layout)
    expected = [g.read().copy() for g in guarded]
    device = [stream.clone_htod(np.ascontiguousarray(a).ravel()) for a in (k, v, slots)]
    int8_kv_cache_append(stream, device[0], device[1], pools, device[2])
    block = (layout.num_blocks, layout.block_size, layout.num_kv_heads)
    shaped = [
        array.reshape(*block, layout.head_dim) if i < 2 else array.reshape(block)
        for i, array in enumerate(expected)
    ]
    reference.int8_kv_cache_append(k, v, *shaped, slots)
    for got, wanted in zip((g.read() for g in guarded), expected, strict=True):
        np.testing.assert_array_equal(got.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [8, 80, 128])
def test_append_equals_the_reference_in_every_bit(stream, rng, dtype, head_dim):
    layout = KvLayout(num_blocks=5, block_size=5, num_kv_heads=3, head_dim=head_dim)
    k, v = (random_half(rng, (17, 3, head_dim), dtype) for _ in "kv")
    slots = rng.permutation(layout.num_slots)[:17].astype(np.int32)
    append_both(stream, layout, k, v, slots)


def test_append_takes_every_kind_of_row(stream, rng):
    rows = rng.standard_normal((12, 1, 16)).astype(np.float32)
    rows[0] = 0.0
    rows[1] = 2.0**-24  # the least fp16
    rows[2] *= 1e-6
    rows[3, 0, 5] = np.nan
    rows[4, 0, 0] = np.inf
    rows[5, 0, 15] = -np.inf
    rows[6] = 65504.0
    rows[7] = -0.0
    rows[8] = np.arange(-8, 8) + 0.5  # with the largest at 127: ties all along the row
    rows[8, 0, 0] = -127.0
    rows[9, 0, :8], rows[9, 0, 8:] = 3.1, -3.1
    layout = KvLayout(num_blocks=12, block_size=1, num_kv_heads=1, head_dim=16)
    k = rows.astype(np.float16)
    append_both(stream, layout, k, k[::-1].copy(), np.arange(12, dtype=np.int32))


def test_append_of_bfloat16_beyond_the_reach_of_fp16_is_poison_and_never_finite(stream):
    rows = np.full((4, 1, 8), 1.0, np.float32)
    rows[0], rows[1], rows[2], rows[3] = 1e38, 65504 * 127.0, 1e-39, 8.4e6
    layout = KvLayout(num_blocks=4, block_size=1, num_kv_heads=1, head_dim=8)
    k = to_bfloat16(rows)
    append_both(stream, layout, k, k, np.arange(4, dtype=np.int32))
    _, scales = reference.quantize(k)
    assert np.isnan(scales[0, 0])
    assert scales[2, 0] == np.float16(2.0**-24)


def test_append_skips_minus_one_and_slots_outside_the_pool(stream, rng):
    layout = KvLayout(num_blocks=2, block_size=4, num_kv_heads=2, head_dim=24)
    k, v = (random_half(rng, (6, 2, 24), "float16") for _ in "kv")
    slots = np.array([3, -1, 8, 2**31 - 1, -(2**31), 0], np.int32)
    append_both(stream, layout, k, v, slots)


@pytest.mark.parametrize("offset", [0, 1])
def test_append_reads_strided_tokens_of_any_alignment(stream, rng, offset):
    """K and V as they come out of one fused projection: [num_tokens, (q, k, v) heads, head_dim]."""
    layout = KvLayout(num_blocks=3, block_size=4, num_kv_heads=2, head_dim=16)
    fused = random_half(rng, (5, 8, 16), "float16")
    padded = np.concatenate([np.zeros(offset, np.float16), fused.ravel()])
    memory = stream.clone_htod(padded)
    pools, guarded = guarded_pools(stream, layout)
    slots = np.array([7, 0, 3, 11, 4], np.int32)
    strides = (8 * 16, 16)
    int8_kv_cache_append(
        stream,
        memory[offset + 4 * 16 :],
        memory[offset + 6 * 16 :],
        pools,
        stream.clone_htod(slots),
        k_strides=strides,
        v_strides=strides,
    )
    codes, scales = reference.quantize(fused[:, 4:6])
    got_codes = guarded[0].read().reshape(12, 2, 16)
    got_scales = guarded[2].read().reshape(12, 2)
    np.testing.assert_array_equal(got_codes[slots], codes)
    np.testing.assert_array_equal(got_scales[slots], scales)
    codes, scales = reference.quantize(fused[:, 6:8])
    np.testing.assert_array_equal(guarded[1].read().reshape(12, 2, 16)[slots], codes)
    np.testing.assert_array_equal(guarded[3].read().reshape(12, 2)[slots], scales)


def test_append_of_no_token_is_no_launch(stream):
    layout = KvLayout(num_blocks=1, block_size=1, num_kv_heads=1, head_dim=8)
    pools, guarded = guarded_pools(stream, layout)
    nothing, none = stream.alloc(0, np.float16), stream.alloc(0, np.int32)
    int8_kv_cache_append(stream, nothing, nothing, pools, none)
    assert (guarded[0].read().view(np.uint8) == 0xA5).all()
