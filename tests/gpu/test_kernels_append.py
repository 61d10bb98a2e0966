"""Append on hardware: every fp16 bit pattern, many tokens, and pools past 2 GiB."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kv_cache import random_half

from pyferrum_kv import bfloat16, reference
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, int8_kv_cache_append

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("primary_context")]


@pytest.fixture
def stream(gpu_ctx):
    return gpu_ctx.new_stream()


def append_and_read(stream, layout, k, v, slots):
    with Int8KvPools.allocate(stream, layout) as pools:
        memory = [stream.clone_htod(np.ascontiguousarray(a).ravel()) for a in (k, v, slots)]
        int8_kv_cache_append(stream, memory[0], memory[1], pools, memory[2])
        shape = (layout.num_slots, layout.num_kv_heads)
        codes = [stream.clone_dtoh(p).reshape(*shape, layout.head_dim) for p in pools.slices[:2]]
        scales = [stream.clone_dtoh(p).reshape(shape) for p in pools.slices[2:]]
    return codes, scales


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16], ids=["float16", "bfloat16"])
def test_every_bit_pattern_is_quantised_as_the_reference_does(stream, rng, dtype):
    """All 65536 patterns, in order (rows of like size) and shuffled (rows of every size)."""
    bits = np.arange(65536, dtype=np.uint16)
    k = bits.view(dtype).reshape(-1, 4, 8)
    v = rng.permutation(bits).view(dtype).reshape(-1, 4, 8)
    num_tokens = len(k)
    layout = KvLayout(num_tokens // 16, 16, 4, 8)
    slots = rng.permutation(num_tokens).astype(np.int32)
    codes, scales = append_and_read(stream, layout, k, v, slots)
    for given, got_codes, got_scales in zip((k, v), codes, scales, strict=True):
        wanted_codes, wanted_scales = reference.quantize(given)
        np.testing.assert_array_equal(got_codes[slots], wanted_codes)
        np.testing.assert_array_equal(
            got_scales[slots].view(np.uint16), wanted_scales.view(np.uint16)
        )


@pytest.mark.parametrize("head_dim", [32, 64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("num_tokens", "num_kv_heads"), [(1, 1), (7, 3), (42, 8), (4096, 2)])
def test_every_size(stream, rng, head_dim, dtype, num_tokens, num_kv_heads):
    layout = KvLayout(num_tokens // 5 + 1, 5, num_kv_heads, head_dim)
    k, v = (random_half(rng, (num_tokens, num_kv_heads, head_dim), dtype) for _ in "kv")
    slots = rng.permutation(layout.num_slots)[:num_tokens].astype(np.int32)
    codes, scales = append_and_read(stream, layout, k, v, slots)
    for given, got_codes, got_scales in zip((k, v), codes, scales, strict=True):
        wanted_codes, wanted_scales = reference.quantize(given)
        np.testing.assert_array_equal(got_codes[slots], wanted_codes)
        np.testing.assert_array_equal(got_scales[slots], wanted_scales)


def test_more_rows_than_a_grid_s_second_dimension_holds(stream, rng):
    num_tokens = 100_000
    layout = KvLayout(num_tokens, 1, 1, 8)
    k = rng.standard_normal((num_tokens, 1, 8)).astype(np.float16)
    slots = rng.permutation(num_tokens).astype(np.int32)
    codes, scales = append_and_read(stream, layout, k, -k, slots)
    wanted_codes, wanted_scales = reference.quantize(k)
    np.testing.assert_array_equal(codes[0][slots], wanted_codes)
    np.testing.assert_array_equal(codes[1][slots], -wanted_codes)
    np.testing.assert_array_equal(scales[0][slots], wanted_scales)


def test_slots_past_two_gib(stream, rng):
    layout = KvLayout(140_000, 16, 8, 128)
    k = rng.standard_normal((3, 8, 128)).astype(np.float16)
    last = layout.num_slots - 1
    slots = np.array([last, 2**21, last - 1000], np.int32)
    with Int8KvPools.allocate(stream, layout) as pools:
        memory = [stream.clone_htod(a.ravel()) for a in (k, slots)]
        int8_kv_cache_append(stream, memory[0], memory[0], pools, memory[1])
        wanted, _ = reference.quantize(k)
        for i, slot in enumerate(slots.tolist()):
            at = layout.code_offset(slot, 0)
            for pool in pools.slices[:2]:
                got = stream.clone_dtoh(pool[at : at + 8 * 128]).reshape(8, 128)
                np.testing.assert_array_equal(got, wanted[i])
