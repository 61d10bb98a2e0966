"""The cache of fp16 and bf16 on hardware: the sizes that people use, long contexts, a large pool.

Every shape runs through the general entry and through the entry that is chosen for it.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.half_cache import check_half, decode_half, make_half_cache
from helpers.kv_cache import random_half

from pyferrum_kv import reference
from pyferrum_kv.half_kv import HalfKvPools, kv_cache_append
from pyferrum_kv.int8_kv import KvLayout

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("primary_context")]

GENERAL, CHOSEN = "paged_decode_attention", ""
BLOCK_SIZES = [1, 5, 16, 64]
HEAD_DIMS = [32, 64, 80, 96, 128, 192, 256]


@pytest.fixture
def stream(gpu_ctx):
    return gpu_ctx.new_stream()


@pytest.fixture(params=[GENERAL, CHOSEN], ids=["general", "chosen"])
def entry(request):
    return request.param


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("block_size", "head_dim"), list(itertools.product(BLOCK_SIZES, HEAD_DIMS))
)
def test_every_block_size_and_head_dim(stream, rng, entry, block_size, head_dim, dtype):
    cache = make_half_cache(
        rng, [97, 1, 0, 514], dtype, block_size=block_size, head_dim=head_dim, spare_blocks=2
    )
    q = random_half(rng, (4, 8, head_dim), dtype)
    check_half(stream, cache, q, dtype=dtype, entry=entry)


@pytest.mark.parametrize("group", [1, 3, 7, 8, 16, 32])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_every_group(stream, rng, entry, group, head_dim):
    cache = make_half_cache(rng, [54, 999, 17], head_dim=head_dim, num_kv_heads=2)
    q = random_half(rng, (3, 2 * group, head_dim), "float16")
    check_half(stream, cache, q, entry=entry)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kv_len", [16384, 131072])
def test_long_sequences_keep_the_promised_accuracy(stream, rng, entry, kv_len, dtype):
    cache = make_half_cache(rng, [kv_len, 17], dtype, num_kv_heads=1, head_dim=128)
    q = random_half(rng, (2, 4, 128), dtype)
    check_half(stream, cache, q, dtype=dtype, entry=entry)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_same_bits_on_repeat(stream, rng, entry, head_dim):
    cache = make_half_cache(rng, [4096, 17, 2011], head_dim=head_dim, num_kv_heads=4)
    q = random_half(rng, (3, 16, head_dim), "float16")
    first, first_lse = decode_half(stream, cache, q, entry=entry)
    for _ in range(10):
        again, again_lse = decode_half(stream, cache, q, entry=entry)
        np.testing.assert_array_equal(again, first)
        np.testing.assert_array_equal(again_lse, first_lse)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_append_of_many_tokens_is_a_copy(stream, rng, dtype):
    layout = KvLayout(num_blocks=512, block_size=16, num_kv_heads=8, head_dim=128)
    k, v = (random_half(rng, (5000, 8, 128), dtype) for _ in "kv")
    slots = rng.permutation(layout.num_slots)[:5000].astype(np.int32)
    with HalfKvPools.allocate(stream, layout, dtype) as pools:
        on_device = [stream.clone_htod(a.ravel()) for a in (k, v, slots)]
        kv_cache_append(stream, on_device[0], on_device[1], pools, on_device[2])
        shape = (512, 16, 8, 128)
        wanted = [np.zeros(shape, k.dtype) for _ in "kv"]
        reference.kv_cache_append(k, v, *wanted, slots)
        for got, expected in zip(pools.slices, wanted, strict=True):
            bits = stream.clone_dtoh(got).view(np.uint16)
            np.testing.assert_array_equal(bits, expected.ravel().view(np.uint16))
