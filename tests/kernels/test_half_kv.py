"""The cache of fp16 and bf16: append bit for bit, decode against float64 attention."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.half_cache import HalfCache, check_half, decode_half, make_half_cache
from helpers.kv_cache import Guarded, make_cache, random_half

from pyferrum_kv import (
    ArgumentError,
    CaptureError,
    ClosedError,
    CudaStream,
    bfloat16,
    half_kv,
    reference,
)
from pyferrum_kv.half_kv import HalfKvPools, kv_cache_append
from pyferrum_kv.int8_kv import Budget, DecodeShape, KvLayout, Workspace

GENERAL = "paged_decode_attention"
DTYPES = ["float16", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("block_size", "head_dim"), [(1, 32), (5, 8), (16, 80), (16, 64), (8, 256), (16, 24)]
)
def test_general_entry_serves_every_shape(stream, rng, block_size, head_dim, dtype):
    cache = make_half_cache(rng, [17, 1, 0, 54], dtype, block_size=block_size, head_dim=head_dim)
    q = random_half(rng, (4, 6, head_dim), dtype)
    check_half(stream, cache, q, dtype=dtype, entry=GENERAL)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_tensor_cores_serve_two_head_dims(stream, rng, head_dim, dtype):
    cache = make_half_cache(rng, [0, 1, 17, 54], dtype, head_dim=head_dim)
    q = random_half(rng, (4, 6, head_dim), dtype)
    check_half(stream, cache, q, dtype=dtype, entry=f"{GENERAL}_d{head_dim}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entry", [GENERAL, f"{GENERAL}_d64", f"{GENERAL}_d128"])
@pytest.mark.parametrize(("window_left", "q_len"), [(-1, 3), (0, 2), (21, 3)])
def test_options_together(stream, rng, entry, window_left, q_len, dtype):
    head_dim = 128 if entry.endswith("128") else 64
    cache = make_half_cache(rng, [70, 20, 2], dtype, head_dim=head_dim)
    q = random_half(rng, (3 * q_len, 4, head_dim), dtype)
    arrays = {
        "sinks": rng.standard_normal(4).astype(np.float32),
        "alibi_slopes": np.array([0.5, 0.25, 0.125, 0.0], np.float32),
    }
    if entry == GENERAL:
        factors = rng.uniform(0.5, 2.0, (2, head_dim)).astype(np.float32)
        arrays["k_channel_factors"] = factors
    options = {"window_left": window_left, "logit_softcap": 30.0}
    check_half(
        stream,
        cache,
        q,
        dtype=dtype,
        q_len=q_len,
        arrays=arrays,
        reference_options=options,
        entry=entry,
        **options,
    )


@pytest.mark.parametrize("entry", [GENERAL, f"{GENERAL}_d64", f"{GENERAL}_d128"])
def test_a_sequence_cut_into_splits(stream, rng, entry):
    head_dim = 128 if entry.endswith("128") else 64
    cache = make_half_cache(rng, [300, 40], head_dim=head_dim)
    q = random_half(rng, (2, 22, head_dim), "float16")  # 11 rows a KV head: two row tiles
    check_half(stream, cache, q, entry=entry, num_splits=5)


@pytest.mark.parametrize("entry", [GENERAL, f"{GENERAL}_d64"])
def test_deterministic_bits_do_not_depend_on_the_batch(stream, rng, entry):
    cache = make_half_cache(rng, [1100, 40], head_dim=64, num_kv_heads=1)
    q = random_half(rng, (2, 2, 64), "float16")
    both, _ = decode_half(stream, cache, q, entry=entry, deterministic=True)
    one = HalfCache(cache.layout, *cache.arrays, cache.block_table[:1], cache.kv_lens[:1])
    alone, _ = decode_half(stream, one, q[:1], entry=entry, deterministic=True)
    np.testing.assert_array_equal(both[:1], alone)


@pytest.mark.parametrize("entry", [GENERAL, f"{GENERAL}_d64", f"{GENERAL}_d128"])
def test_a_block_outside_the_pool_and_a_length_above_the_bound_give_nan(stream, rng, entry):
    head_dim = 128 if entry.endswith("128") else 64
    cache = make_half_cache(rng, [20, 20, 40], num_kv_heads=1, head_dim=head_dim)
    cache.block_table[0, 1] = cache.layout.num_blocks
    q = random_half(rng, (3, 1, head_dim), "float16")
    out, _ = decode_half(stream, cache, q, entry=entry, max_kv_len=32)
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()
    assert np.isnan(out[2]).all()


def test_a_nan_in_v_reaches_no_row_that_does_not_see_its_token(stream, rng):
    cache = make_half_cache(rng, [20], num_kv_heads=1, head_dim=16)
    cache.v_pool[cache.block_table[0, 1], 3] = np.nan  # token 19
    q = random_half(rng, (2, 1, 16), "float16")  # at positions 18 and 19
    out, _ = decode_half(stream, cache, q, q_len=2, entry=GENERAL)
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()


def test_large_values_of_bf16_are_not_narrowed(stream, rng):
    """V of 1e30: through fp16 it would be infinite."""
    cache = make_half_cache(rng, [40], "bfloat16", head_dim=64, num_kv_heads=1)
    bits = np.float32(1e30).view(np.uint32) >> 16
    cache.v_pool.view(np.uint16)[:] = bits
    q = random_half(rng, (1, 2, 64), "bfloat16")
    out, _ = decode_half(stream, cache, q, entry=f"{GENERAL}_d64")
    assert np.abs(out.view(np.uint16).astype(int) - int(bits)).max() <= 1


def test_int8_is_off_by_what_the_format_costs_and_this_is_not(stream, rng):
    """Both caches of the same tokens, in one library, against attention in float64."""
    head_dim, kv_len = 64, 96
    halves = make_half_cache(rng, [kv_len], head_dim=head_dim)
    quantised = make_cache(rng, [kv_len], head_dim=head_dim, spare_blocks=0)
    quantised.block_table[:] = halves.block_table
    slots = np.arange(halves.layout.num_slots, dtype=np.int32)
    tokens = [pool.reshape(-1, 2, head_dim) for pool in halves.arrays]
    reference.int8_kv_cache_append(*tokens, *quantised.arrays, slots)
    q = random_half(rng, (1, 8, head_dim), "float16")
    out, _ = decode_half(stream, halves, q)
    exact, _ = reference.paged_decode_attention(
        q, *halves.arrays, halves.block_table, halves.kv_lens
    )
    coded, _ = reference.paged_decode_attention_int8(
        q, *quantised.arrays, quantised.block_table, quantised.kv_lens
    )
    size = np.linalg.norm(exact)
    assert np.linalg.norm(out - exact) <= 5e-4 * size
    assert 2e-3 * size <= np.linalg.norm(coded - exact) <= 0.012 * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
def test_append_copies_every_bit_to_its_slot_and_no_other(stream, rng, dtype, offset):
    """K and V as they come out of one fused projection: [num_tokens, (q, k, v) heads, head_dim]."""
    layout = KvLayout(num_blocks=3, block_size=4, num_kv_heads=2, head_dim=24)
    fused = random_half(rng, (6, 8, 24), dtype)
    fused.view(np.uint16)[0, 4, :4] = [0x7FFF, 0xFC00, 0x8000, 0x0001]  # NaN's payload, -0, ...
    padded = np.concatenate([fused.ravel()[:offset], fused.ravel()])
    memory = stream.clone_htod(padded)
    guarded = [Guarded(stream, layout.num_codes, fused.dtype) for _ in "kv"]
    expected = [g.read().copy() for g in guarded]
    slots = np.array([7, -1, 3, 12, 4, 2**31 - 1], np.int32)
    kv_cache_append(
        stream,
        memory[offset + 4 * 24 :],
        memory[offset + 6 * 24 :],
        HalfKvPools(layout, *(g.slice for g in guarded)),
        stream.clone_htod(slots),
        k_strides=(8 * 24, 24),
        v_strides=(8 * 24, 24),
    )
    shaped = [pool.reshape(3, 4, 2, 24) for pool in expected]
    reference.kv_cache_append(fused[:, 4:6], fused[:, 6:8], *shaped, slots)
    for got, wanted in zip((g.read() for g in guarded), expected, strict=True):
        np.testing.assert_array_equal(got.view(np.uint16), wanted.view(np.uint16))


def test_what_was_appended_is_attended_to(stream: CudaStream, rng: np.random.Generator) -> None:
    layout = KvLayout(num_blocks=2, block_size=16, num_kv_heads=2, head_dim=64)
    k, v = (random_half(rng, (20, 2, 64), "float16") for _ in "kv")
    slots = np.r_[16:32, 0:4].astype(np.int32)
    q = random_half(rng, (1, 4, 64), "float16")
    with HalfKvPools.allocate(stream, layout) as pools:
        on_device = [stream.clone_htod(a.ravel()) for a in (k, v, slots)]
        kv_cache_append(stream, on_device[0], on_device[1], pools, on_device[2])
        out = stream.alloc_zeros(q.size, np.float16)
        table = stream.clone_htod(np.array([1, 0], np.int32))
        memory = stream.clone_htod(q.ravel())
        for _ in range(2):  # prepared, then found
            half_kv.paged_decode_attention(
                stream, memory, pools, table, None, out, num_q_heads=4, max_kv_len=20
            )
        wanted, _ = reference.attention(q[0], k, v, softmax_scale=64**-0.5)
        got = stream.clone_dtoh(out).reshape(4, 64)
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_plans_name_the_entry_and_why() -> None:
    def plan(**sizes: int) -> str:
        sizes = {"head_dim": 128, "block_size": 16} | sizes
        shape = DecodeShape(4, 32, 8, max_kv_len=4096, **sizes)
        return half_kv.explain(shape, Budget.reserved(132)).entry

    assert plan() == f"{GENERAL}_d128"
    assert plan(head_dim=64) == f"{GENERAL}_d64"
    assert plan(head_dim=96) == plan(block_size=8) == plan(has_k_channel_factors=True) == GENERAL


def test_refusals_name_the_operation_and_the_argument(stream, rng):
    cache = make_half_cache(rng, [19], block_size=8, head_dim=16)
    pools = cache.to_device(stream)
    q = stream.clone_htod(random_half(rng, (1, 4, 16), "float16").ravel())
    table = stream.clone_htod(cache.block_table.ravel())
    given = {
        "stream": stream,
        "q": q,
        "pools": pools,
        "block_table": table,
        "kv_lens": None,
        "out": stream.alloc_zeros(64, np.float16),
        "num_q_heads": 4,
        "max_kv_len": 19,
    }
    wrong = stream.alloc_zeros(64, bfloat16)
    for changed, message in (
        ({"num_q_heads": 5}, "num_q_heads 5 is not a multiple of num_kv_heads 2"),
        ({"q_len": 9}, "q_len is 9; wanted 1 to 8"),
        ({"max_kv_len": 33}, "block_table has 4 elements; wanted at least 5"),
        ({"q": wrong, "out": wrong}, "out at .* overlaps q"),
        ({"q": wrong, "out": wrong[:0]}, "out has 0 elements"),
        ({"q": wrong, "out": stream.alloc_zeros(64, bfloat16)}, "q is a slice of bfloat16; wanted"),
        ({"out": pools.k_pool}, "out at .* overlaps k_pool"),
        ({"entry": "fastest"}, "no entry serves .*fastest was asked for"),
        ({"softmax_scale": "fast"}, "softmax_scale is 'fast'; wanted a number"),
        ({"q": None}, "q is NoneType; wanted a slice of float16 or bfloat16"),
    ):
        with pytest.raises(ArgumentError, match=f"^paged_decode_attention: {message}"):
            half_kv.paged_decode_attention(**{**given, **changed})
    half_kv.paged_decode_attention(**given)
    pools.close()
    with pytest.raises(ClosedError, match=r"paged_decode_attention: k_pool is .*closed"):
        half_kv.paged_decode_attention(**given)


def test_append_refuses_another_type_overlaps_and_wrong_numbers(stream, rng):
    layout = KvLayout(num_blocks=2, block_size=4, num_kv_heads=2, head_dim=16)
    pools = HalfKvPools.allocate(stream, layout)
    k = stream.alloc_zeros(6 * 32, np.float16)
    slots = stream.clone_htod(np.arange(6, dtype=np.int32))
    other = stream.alloc_zeros(6 * 32, bfloat16)
    for arguments, options, message in (
        ((other, other), {}, "k is a slice of bfloat16; wanted float16"),
        ((k, other), {}, "v is a slice of bfloat16; wanted float16"),
        ((k, k[:64]), {}, "v has 64 elements; wanted at least 192"),
        ((k, pools.v_pool), {}, "v_pool at .* overlaps v"),
        ((k, k), {"num_tokens": 7}, "slot_mapping has 6 elements; wanted at least 7"),
        ((k, k), {"k_strides": (32,)}, r"k_strides is \(32,\); wanted"),
    ):
        with pytest.raises(ArgumentError, match=f"^kv_cache_append: {message}"):
            kv_cache_append(stream, *arguments, pools, slots, **options)
    kv_cache_append(stream, k, k, pools, slots)
    twice = stream.clone_htod(np.array([1, 1], np.int32))
    with pytest.raises(ArgumentError, match=r"kv_cache_append: .* are both 1; wanted distinct"):
        kv_cache_append(stream, k, k, pools, twice, debug=True)


def test_pools_are_of_one_half_type_aligned_and_apart(stream):
    layout = KvLayout(num_blocks=2, block_size=4, num_kv_heads=2, head_dim=16)
    k = stream.alloc_zeros(layout.num_codes + 8, np.float16)
    v = stream.alloc_zeros(layout.num_codes, np.float16)
    with pytest.raises(ArgumentError, match="HalfKvPools: k_pool is a slice of int8; wanted"):
        HalfKvPools(layout, stream.alloc_zeros(layout.num_codes, np.int8), v)
    with pytest.raises(ArgumentError, match="HalfKvPools: v_pool is a slice of bfloat16; wanted"):
        HalfKvPools(layout, k, stream.alloc_zeros(layout.num_codes, bfloat16))
    with pytest.raises(
        ArgumentError, match=r"k_pool is at .*; wanted an address .* multiple of 16"
    ):
        HalfKvPools(layout, k[4:], v)
    with pytest.raises(ArgumentError, match=r"k_pool at .* overlaps v_pool"):
        HalfKvPools(layout, k, k)
    with pytest.raises(ArgumentError, match="k_pool has 8 elements; wanted at least 256"):
        HalfKvPools(layout, k[:8], v)
    with pytest.raises(ArgumentError, match="allocate: dtype is int8; wanted float16 or bfloat16"):
        HalfKvPools.allocate(stream, layout, np.int8)


def test_preload_makes_the_first_captured_launch_possible(stream, rng):
    cache = make_half_cache(rng, [400], head_dim=64, num_kv_heads=1)
    q = stream.clone_htod(random_half(rng, (1, 2, 64), "float16").ravel())
    out = stream.alloc_zeros(128, np.float16)
    table = stream.clone_htod(cache.block_table.ravel())
    pools = cache.to_device(stream)
    sizes = {"num_q_heads": 2, "max_kv_len": 400, "num_splits": 2}

    def launch() -> None:
        half_kv.paged_decode_attention(stream, q, pools, table, None, out, **sizes)

    with pytest.raises(CaptureError, match="paged_decode_attention: "), stream.capture():
        launch()
    half_kv.preload(stream.context, stream)
    assert Workspace.of(stream) is Workspace.of(stream)
    with stream.capture() as graph:
        launch()
    graph.launch()
    assert np.isfinite(stream.clone_dtoh(out)).all()
