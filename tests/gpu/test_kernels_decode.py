"""Decode on hardware over the sizes that people use, long contexts, and numbers at the edge.

Every shape runs through the general entry and through the entry that is chosen for it.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.decode import ENTRY, check, check_alone_and_together, check_relative_error, decode
from helpers.kv_cache import Guarded, assert_close, make_cache, random_half

from pyferrum_kv import reference
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, paged_decode_attention_int8

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("primary_context")]

BLOCK_SIZES = [1, 5, 8, 16, 32, 64, 128]
HEAD_DIMS = [32, 64, 80, 96, 128, 192, 256]
GROUPS = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32]
KV_LENS = [0, 1, 2, 7, 15, 16, 17, 54, 97, 127, 512, 514, 999, 2011]
LONG = [16384, 32789, 131072]
CHOSEN = ""


@pytest.fixture
def stream(gpu_ctx):
    return gpu_ctx.new_stream()


@pytest.fixture(params=[ENTRY, CHOSEN], ids=["general", "chosen"])
def entry(request):
    return request.param


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("block_size", "head_dim"), list(itertools.product(BLOCK_SIZES, HEAD_DIMS))
)
def test_every_block_size_and_head_dim(stream, rng, entry, block_size, head_dim, dtype):
    cache = make_cache(rng, [97, 1, 0, 514], block_size=block_size, head_dim=head_dim)
    q = random_half(rng, (4, 8, head_dim), dtype)
    check(stream, cache, q, dtype=dtype, entry=entry)


@pytest.mark.parametrize(("group", "head_dim"), list(itertools.product(GROUPS, HEAD_DIMS)))
def test_every_group(stream, rng, entry, group, head_dim):
    cache = make_cache(rng, [54, 999, 17], head_dim=head_dim, num_kv_heads=2)
    q = random_half(rng, (3, 2 * group, head_dim), "float16")
    check(stream, cache, q, entry=entry)


@pytest.mark.parametrize("num_kv_heads", [1, 3, 5, 8, 12, 32])
def test_every_number_of_kv_heads(stream, rng, entry, num_kv_heads):
    cache = make_cache(rng, [130, 54], head_dim=128, num_kv_heads=num_kv_heads)
    q = random_half(rng, (2, 4 * num_kv_heads, 128), "float16")
    check(stream, cache, q, entry=entry)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_length_in_one_batch(stream, rng, entry, head_dim):
    cache = make_cache(rng, KV_LENS, head_dim=head_dim, num_kv_heads=2)
    check(stream, cache, random_half(rng, (len(KV_LENS), 8, head_dim), "float16"), entry=entry)


@pytest.mark.parametrize("batch_size", [1, 3, 12, 17, 128, 256])
def test_every_batch_size(stream, rng, entry, batch_size):
    kv_lens = rng.integers(0, 300, batch_size).tolist()
    cache = make_cache(rng, kv_lens, head_dim=128, num_kv_heads=2)
    check(stream, cache, random_half(rng, (batch_size, 8, 128), "float16"), entry=entry)


@pytest.mark.parametrize("kv_len", LONG)
@pytest.mark.parametrize("block_size", [5, 16])
def test_long_sequences_keep_the_promised_accuracy(stream, rng, entry, kv_len, block_size):
    cache = make_cache(rng, [kv_len, 17], block_size=block_size, num_kv_heads=1, head_dim=128)
    check(stream, cache, random_half(rng, (2, 4, 128), "float16"), entry=entry)


@pytest.mark.parametrize("v_factor", [1e-5, 1e-4, 1e-2, 1.0])
def test_v_scales_from_tiny_to_one_at_131072_tokens(stream, rng, entry, v_factor):
    """Scales of 1e-5 to 1: V of that times 127. Judged relative to the output's own size."""
    cache = make_cache(rng, [131072], num_kv_heads=1, head_dim=64, v_factor=v_factor * 40)
    q = random_half(rng, (1, 4, 64), "float16") * np.float16(4)
    check_relative_error(stream, cache, q, entry=entry)


@pytest.mark.parametrize("v_factor", [1e-4, 1.0])
def test_one_dominant_token_among_131072(stream, rng, entry, v_factor):
    kv_len, head_dim = 131072, 128
    q = random_half(rng, (1, 2, head_dim), "float16")
    k = rng.standard_normal((kv_len, 1, head_dim)) * 0.1
    k[77777, 0] = q[0, 0].astype(np.float64) * 2
    cache = make_cache(
        rng, [kv_len], num_kv_heads=1, head_dim=head_dim, k=k, v_factor=v_factor * 40
    )
    check_relative_error(stream, cache, q, entry=entry)


@pytest.mark.parametrize("head_dim", [64, 128, 80])
def test_against_attention_that_was_never_quantised(stream, rng, entry, head_dim):
    """What INT8 costs: relative L2 at most 0.012 and a cosine of at least 0.9999 on N(0, 1)."""
    kv_len = 2048
    k, v = rng.standard_normal((2, kv_len, 2, head_dim)).astype(np.float16)
    q = random_half(rng, (1, 8, head_dim), "float16")
    empty = make_cache(rng, [kv_len], head_dim=head_dim, num_kv_heads=2)
    t = np.arange(kv_len)
    slots = empty.block_table[0, t // 16] * 16 + t % 16
    reference.int8_kv_cache_append(k, v, *empty.arrays, slots)
    out, _ = decode(stream, empty, q, entry=entry)
    wanted, _ = reference.attention(q[0], k, v, softmax_scale=head_dim**-0.5)
    got = out[0].astype(np.float64)
    assert np.linalg.norm(got - wanted) <= 0.012 * np.linalg.norm(wanted)
    assert (got * wanted).sum() >= 0.9999 * np.linalg.norm(got) * np.linalg.norm(wanted)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("q_len", [1, 2, 8])
@pytest.mark.parametrize("window_left", [-1, 0, 100])
def test_options_together(stream, rng, entry, head_dim, q_len, window_left):
    cache = make_cache(rng, [513, 9, 130, 0], head_dim=head_dim, num_kv_heads=2)
    q = random_half(rng, (4 * q_len, 8, head_dim), "float16")
    arrays = {
        "sinks": rng.standard_normal(8).astype(np.float32),
        "alibi_slopes": (2.0 ** -np.arange(1, 9)).astype(np.float32),
        "k_channel_factors": rng.uniform(0.5, 2.0, (2, head_dim)).astype(np.float32),
    }
    options = {"window_left": window_left, "logit_softcap": 30.0}
    check(
        stream,
        cache,
        q,
        q_len=q_len,
        arrays=arrays,
        reference_options=options,
        entry=entry,
        **options,
    )


def test_the_same_bits_on_repeat_whatever_order_ctas_arrive_in(stream, rng, entry):
    cache = make_cache(rng, [4096, 17, 2011, 999], head_dim=128, num_kv_heads=4)
    q = random_half(rng, (4, 16, 128), "float16")
    first, first_lse = decode(stream, cache, q, entry=entry)
    for _ in range(20):
        again, again_lse = decode(stream, cache, q, entry=entry)
        np.testing.assert_array_equal(again, first)
        np.testing.assert_array_equal(again_lse, first_lse)


def test_deterministic_bits_alone_and_in_a_batch(stream, rng, entry):
    cache = make_cache(rng, [5000, 17, 2011, 3000], head_dim=128, num_kv_heads=2)
    q = random_half(rng, (4, 8, 128), "float16")
    check_alone_and_together(stream, cache, q, entry=entry)


def test_a_captured_decode_reads_new_lengths_tables_and_codes(gpu_ctx, rng, entry):
    stream = gpu_ctx.new_stream()
    cache = make_cache(rng, [700, 700], head_dim=128, num_kv_heads=2)
    q = random_half(rng, (2, 8, 128), "float16")
    out = Guarded(stream, q.size, np.float16)
    dq, table, lens = (stream.clone_htod(a.ravel()) for a in (q, cache.block_table, cache.kv_lens))
    pools = cache.to_device(stream)

    def launch() -> None:
        paged_decode_attention_int8(
            stream, dq, pools, table, lens, out.slice, num_q_heads=8, max_kv_len=700, entry=entry
        )

    launch()
    with stream.capture() as graph:
        launch()
    for kv_lens in ([700, 3], [0, 512]):
        cache.kv_lens[:] = kv_lens
        stream.memcpy_htod(cache.kv_lens, lens)
        graph.launch()
        wanted, _ = reference.paged_decode_attention_int8(
            q, *cache.arrays, cache.block_table, cache.kv_lens
        )
        assert_close(out.read(), wanted)


def test_a_pool_past_two_gib(gpu_ctx, rng, entry):
    """Blocks at the far end of a 4.6 GB pool: an int32 offset would wrap."""
    stream = gpu_ctx.new_stream()
    head_dim, num_kv_heads, block_size = 128, 8, 16
    small = make_cache(rng, [75, 40], num_kv_heads=num_kv_heads, head_dim=head_dim, spare_blocks=0)
    num_blocks = 140_000
    shift = num_blocks - small.layout.num_blocks
    block = block_size * num_kv_heads * head_dim
    codes = [stream.alloc(num_blocks * block, np.int8) for _ in "kv"]
    scales = [stream.alloc(num_blocks * block_size * num_kv_heads, np.float16) for _ in "kv"]
    layout = KvLayout(num_blocks, block_size, num_kv_heads, head_dim)
    pools = Int8KvPools(layout, *codes, *scales)
    for memory, host in zip(pools.slices, small.arrays, strict=True):
        stream.memcpy_htod(host.ravel(), memory[len(memory) - host.size :])
    q = random_half(rng, (2, 32, head_dim), "float16")
    table = np.where(small.block_table < small.layout.num_blocks, small.block_table + shift, 2**30)
    out = Guarded(stream, q.size, np.float16)
    memory = [stream.clone_htod(a.ravel()) for a in (q, table.astype(np.int32), small.kv_lens)]
    paged_decode_attention_int8(
        stream,
        memory[0],
        pools,
        memory[1],
        memory[2],
        out.slice,
        num_q_heads=32,
        max_kv_len=75,
        entry=entry,
    )
    wanted, _ = reference.paged_decode_attention_int8(
        q, *small.arrays, small.block_table, small.kv_lens
    )
    assert_close(out.read(), wanted)
    pools.close()
