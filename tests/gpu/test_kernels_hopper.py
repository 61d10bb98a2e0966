"""The entries that only Hopper runs, each asked for by name: bulk tensor copies, and clusters.

The virtual device has neither, so these assertions are theirs alone.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers.decode import check, check_alone_and_together, check_relative_error, decode
from helpers.kv_cache import Guarded, assert_close, make_cache, random_half

from pyferrum_kv import reference
from pyferrum_kv.int8_kv import paged_decode_attention_int8

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("primary_context")]

KV_LENS = [0, 1, 2, 15, 16, 17, 54, 127, 128, 129, 514, 999, 2011]
DECODE = "paged_decode_attention_int8"


@pytest.fixture
def stream(gpu_ctx):
    if not gpu_ctx.attribute("TENSOR_MAP_ACCESS_SUPPORTED"):
        pytest.skip("compute capability below 9.0")
    return gpu_ctx.new_stream()


FAMILIES = [("tma", n) for n in (64, 80, 96, 128)]
FAMILIES += [("cluster", n) for n in (64, 128, 256)]


@pytest.fixture(params=FAMILIES, ids=lambda family: f"{family[0]}_d{family[1]}")
def family(request):
    return request.param


@pytest.fixture
def head_dim(family):
    return family[1]


@pytest.fixture
def entry(family):
    return f"{DECODE}_{family[0]}_d{family[1]}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("block_size", [16, 48, 128])
def test_every_length_in_one_batch(stream, rng, entry, head_dim, block_size, dtype):
    cache = make_cache(rng, KV_LENS, block_size=block_size, head_dim=head_dim, num_kv_heads=2)
    check(
        stream,
        cache,
        random_half(rng, (len(KV_LENS), 8, head_dim), dtype),
        dtype=dtype,
        entry=entry,
    )


@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("num_kv_heads", [1, 3, 8, 32])
def test_every_group_and_number_of_kv_heads(stream, rng, entry, head_dim, group, num_kv_heads):
    cache = make_cache(rng, [130, 54, 700], head_dim=head_dim, num_kv_heads=num_kv_heads)
    q = random_half(rng, (3, group * num_kv_heads, head_dim), "float16")
    check(stream, cache, q, entry=entry)


@pytest.mark.parametrize("group", [9, 16, 32])
def test_sixteen_rows_at_a_time(stream, rng, group):
    cache = make_cache(rng, [513, 9, 0, 130], head_dim=128, num_kv_heads=2)
    q = random_half(rng, (4, 2 * group, 128), "float16")
    check(stream, cache, q, entry=f"{DECODE}_tma_d128_rows16")


@pytest.mark.parametrize("batch_size", [1, 17, 128, 256])
def test_workers_that_hold_many_sequences_and_sequences_on_many(
    stream, rng, entry, head_dim, batch_size
):
    kv_lens = rng.integers(0, 700, batch_size).tolist()
    kv_lens[0] = 9000
    cache = make_cache(rng, kv_lens, head_dim=head_dim, num_kv_heads=2)
    check(stream, cache, random_half(rng, (batch_size, 8, head_dim), "float16"), entry=entry)


@pytest.mark.parametrize("num_splits", [1, 2, 3, 4, 5, 8, 16])
def test_every_cut(stream, rng, entry, head_dim, num_splits):
    cache = make_cache(rng, [3000, 100], head_dim=head_dim, num_kv_heads=2)
    q = random_half(rng, (2, 8, head_dim), "float16")
    check(stream, cache, q, entry=entry, num_splits=num_splits)


@pytest.mark.parametrize("q_len", [1, 2])
@pytest.mark.parametrize("window_left", [-1, 0, 100])
def test_options_together(stream, rng, entry, head_dim, q_len, window_left):
    cache = make_cache(rng, [513, 9, 130, 0], head_dim=head_dim, num_kv_heads=2)
    q = random_half(rng, (4 * q_len, 8, head_dim), "float16")
    arrays = {
        "sinks": rng.standard_normal(8).astype(np.float32),
        "alibi_slopes": (2.0 ** -np.arange(1, 9)).astype(np.float32),
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


def test_a_table_entry_outside_the_pool_makes_its_sequence_nan(stream, rng, entry, head_dim):
    cache = make_cache(rng, [200, 100], head_dim=head_dim, num_kv_heads=2)
    for bad in (-1, cache.layout.num_blocks, 2**30):
        cache.block_table[0, 3] = bad
        q = random_half(rng, (2, 8, head_dim), "float16")
        out, _ = decode(stream, cache, q, entry=entry)
        assert np.isnan(out[0]).all()
        assert np.isfinite(out[1]).all()


@pytest.mark.parametrize("v_factor", [1e-5, 1.0])
def test_a_long_sequence_keeps_the_promised_accuracy(stream, rng, entry, head_dim, v_factor):
    cache = make_cache(rng, [131072, 17], num_kv_heads=1, head_dim=head_dim, v_factor=v_factor * 40)
    q = random_half(rng, (2, 4, head_dim), "float16")
    check_relative_error(stream, cache, q, entry=entry)


def test_the_same_bits_on_repeat_under_load(stream, rng, entry, head_dim):
    """Copies end in any order when memory is busy; nothing may depend on it."""
    kv_lens = [8192, 17, 2011, 5000, 1, 0, 3333, 777] * 4
    cache = make_cache(rng, kv_lens, head_dim=head_dim, num_kv_heads=8)
    q = random_half(rng, (len(kv_lens), 32, head_dim), "float16")
    memory = [stream.clone_htod(a.ravel()) for a in (q, cache.block_table, cache.kv_lens)]
    pools = cache.to_device(stream)
    outs = [Guarded(stream, q.size, np.float16) for _ in range(40)]
    for out in outs:
        paged_decode_attention_int8(
            stream,
            memory[0],
            pools,
            memory[1],
            memory[2],
            out.slice,
            num_q_heads=32,
            max_kv_len=8192,
            entry=entry,
        )
    first = outs[0].read()
    for out in outs[1:]:
        np.testing.assert_array_equal(out.read(), first)
    wanted, _ = reference.paged_decode_attention_int8(
        q[:4], *cache.arrays, cache.block_table[:4], cache.kv_lens[:4]
    )
    assert_close(first.reshape(q.shape)[:4], wanted)


@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_deterministic_bits_alone_and_in_a_batch(stream, rng, head_dim):
    entry = f"{DECODE}_tma_d{head_dim}"
    cache = make_cache(rng, [5000, 17, 2011, 3000], head_dim=head_dim, num_kv_heads=2)
    q = random_half(rng, (4, 8, head_dim), "float16")
    check_alone_and_together(stream, cache, q, entry=entry)
