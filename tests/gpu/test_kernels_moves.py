"""Rotary append, merge and block copies on hardware, at sizes that fill it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kv_cache import random_half, widened

from pyferrum_kv import from_bfloat16, reference
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    copy_blocks,
    int8_kv_cache_append_rotary,
    merge_attention_states,
    swap_blocks,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("primary_context")]


@pytest.fixture
def stream(gpu_ctx):
    return gpu_ctx.new_stream()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(128, 128), (128, 64), (80, 80), (96, 24)])
@pytest.mark.parametrize(("num_tokens", "num_q_heads"), [(1, 32), (777, 8), (4096, 4)])
def test_rotation_and_append(
    stream, rng, num_tokens, num_q_heads, head_dim, rotary_dim, dtype, interleaved
):
    layout = KvLayout(num_tokens // 5 + 1, 5, 2, head_dim)
    k, v = (random_half(rng, (num_tokens, 2, head_dim), dtype) for _ in "kv")
    q = random_half(rng, (num_tokens, num_q_heads, head_dim), dtype)
    slots = rng.permutation(layout.num_slots)[:num_tokens].astype(np.int32)
    positions = rng.integers(0, 1000, num_tokens, dtype=np.int32)
    cos_sin = rng.uniform(-1, 1, (1000, rotary_dim)).astype(np.float32)
    arrays = (k, v, slots, positions, cos_sin, q)
    memory = [stream.clone_htod(np.ascontiguousarray(a).ravel()) for a in arrays]
    with Int8KvPools.allocate(stream, layout) as pools:
        int8_kv_cache_append_rotary(
            stream,
            *memory[:2],
            pools,
            *memory[2:5],
            rotary_dim=rotary_dim,
            interleaved=interleaved,
            q=memory[5],
            num_q_heads=num_q_heads,
        )
        codes = stream.clone_dtoh(pools.k_pool).reshape(layout.num_slots, 2, head_dim)
        scales = stream.clone_dtoh(pools.k_scales).reshape(layout.num_slots, 2)
    turned = [
        reference.rotary_embedding(x, positions, cos_sin, interleaved=interleaved) for x in (k, q)
    ]
    wanted_codes, wanted_scales = reference.quantize(turned[0])
    np.testing.assert_array_equal(codes[slots], wanted_codes)
    np.testing.assert_array_equal(scales[slots], wanted_scales)
    got = stream.clone_dtoh(memory[5]).view(np.uint16)
    np.testing.assert_array_equal(got, turned[1].view(np.uint16).ravel())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("num_states", [1, 2, 5, 64])
def test_merge(stream, rng, num_states, dtype):
    shape = (num_states, 500, 8)
    rows = rng.standard_normal((*shape, 128)).astype(np.float32)
    rows = random_half(rng, rows.shape, dtype) if dtype != "float32" else rows
    lse = (3 * rng.standard_normal(shape)).astype(np.float32)
    lse[rng.random(shape) < 0.4] = -np.inf
    out = stream.alloc(rows[0].size, rows.dtype)
    merged = stream.alloc(lse[0].size, np.float32)
    merge_attention_states(
        stream,
        stream.clone_htod(rows.ravel()),
        stream.clone_htod(lse.ravel()),
        out,
        num_states=num_states,
        num_q_heads=8,
        head_dim=128,
        lse=merged,
    )
    wanted, wanted_lse = reference.merge_attention_states(rows, lse)
    host = stream.clone_dtoh(out).reshape(wanted.shape)
    got = from_bfloat16(host) if dtype == "bfloat16" else widened(host)
    bound = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 4e-6}[dtype]
    assert np.abs(got - wanted).max() <= bound * max(1.0, np.abs(wanted).max())
    got_lse = stream.clone_dtoh(merged).reshape(wanted_lse.shape)
    np.testing.assert_array_equal(np.isneginf(got_lse), np.isneginf(wanted_lse))
    seen = np.isfinite(wanted_lse)
    np.testing.assert_allclose(got_lse[seen], wanted_lse[seen], atol=1e-5)


def test_a_thousand_blocks_out_and_in_again(gpu_ctx, stream, rng):
    layout = KvLayout(2048, 16, 8, 128)
    arrays = [rng.integers(-128, 128, layout.num_codes, dtype=np.int8) for _ in "kv"]
    arrays += [rng.standard_normal(layout.num_scales).astype(np.float16) for _ in "kv"]
    pools = Int8KvPools(layout, *(stream.clone_htod(array) for array in arrays))
    order = rng.permutation(layout.num_blocks).astype(np.int32)
    some, others = order[:1000], order[1000:2000]
    host = Int8KvPools.allocate_pinned(gpu_ctx, KvLayout(1000, 16, 8, 128))
    places = rng.permutation(1000).astype(np.int32)
    out = stream.clone_htod(np.stack([some, places], axis=1).ravel())
    back = stream.clone_htod(np.stack([places, others], axis=1).ravel())
    swap_blocks(stream, pools, host, out)
    swap_blocks(stream, host, pools, back)
    for memory, array in zip(pools.slices, arrays, strict=True):
        rows = array.reshape(layout.num_blocks, -1)
        rows[others] = rows[some]
        np.testing.assert_array_equal(stream.clone_dtoh(memory).reshape(rows.shape), rows)
    for memory in host.slices:
        memory.close()


def test_blocks_past_two_gib(stream, rng):
    layout = KvLayout(140_000, 16, 8, 128)
    with Int8KvPools.allocate(stream, layout) as pools:
        codes = rng.integers(-128, 128, layout.kv_block_stride, dtype=np.int8)
        stream.memcpy_htod(codes, pools.k_pool[: layout.kv_block_stride])
        last = layout.num_blocks - 1
        copy_blocks(stream, pools, stream.clone_htod(np.array([0, last], np.int32)))
        copy_blocks(stream, pools, stream.clone_htod(np.array([last, 1], np.int32)))
        for block in (last, 1):
            at = block * layout.kv_block_stride
            got = stream.clone_dtoh(pools.k_pool[at : at + layout.kv_block_stride])
            np.testing.assert_array_equal(got, codes)
