"""paged_decode_attention_int8 against float64 attention over the same codes and scales."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.decode import ENTRY, check, check_alone_and_together, decode
from helpers.kv_cache import Guarded, HostCache, assert_close, make_cache, random_half

from pyferrum_kv import reference
from pyferrum_kv.int8_kv import Workspace, paged_decode_attention_int8


@pytest.mark.parametrize("block_size", [1, 5, 8, 16])
def test_ragged_batch_with_permuted_blocks(stream, rng, block_size):
    cache = make_cache(rng, [17, 1, 0, 54], block_size=block_size, head_dim=32)
    check(stream, cache, random_half(rng, (4, 4, 32), "float16"))


@pytest.mark.parametrize("kv_len", [1, 15, 16, 17, 97])
def test_every_length_around_a_tile(stream, rng, kv_len):
    cache = make_cache(rng, [kv_len], num_kv_heads=1, head_dim=64)
    check(stream, cache, random_half(rng, (1, 2, 64), "float16"))


@pytest.mark.parametrize("head_dim", [8, 24, 80, 128, 256])
def test_every_spread_of_head_dim_over_lanes(stream, rng, head_dim):
    cache = make_cache(rng, [19], num_kv_heads=2, head_dim=head_dim)
    check(stream, cache, random_half(rng, (1, 2, head_dim), "float16"))


@pytest.mark.parametrize("q_per_kv", [1, 3, 8, 11])
def test_any_number_of_query_heads_to_a_kv_head(stream, rng, q_per_kv):
    cache = make_cache(rng, [21, 4], num_kv_heads=2, head_dim=16)
    check(stream, cache, random_half(rng, (2, 2 * q_per_kv, 16), "float16"))


def test_bfloat16_in_and_out(stream, rng):
    cache = make_cache(rng, [33, 6], head_dim=64)
    check(stream, cache, random_half(rng, (2, 4, 64), "bfloat16"), dtype="bfloat16")


@pytest.mark.parametrize("num_splits", [2, 3, 7])
def test_splits_change_only_the_last_bits(stream, rng, num_splits):
    cache = make_cache(rng, [97, 16, 0, 33], num_kv_heads=1, head_dim=32)
    check(stream, cache, random_half(rng, (4, 2, 32), "float16"), num_splits=num_splits)


def test_splits_repeat_bit_for_bit_and_leave_the_counters_at_zero(stream, rng):
    cache = make_cache(rng, [97, 64], num_kv_heads=1, head_dim=16)
    q = random_half(rng, (2, 2, 16), "float16")
    with Workspace.allocate(stream, num_floats=4096, num_counters=8) as workspace:
        first, first_lse = decode(stream, cache, q, num_splits=4, workspace=workspace)
        again, again_lse = decode(stream, cache, q, num_splits=4, workspace=workspace)
        assert not stream.clone_dtoh(workspace.counters).any()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first_lse, again_lse)


def test_deterministic_mode_gives_a_sequence_the_same_bits_in_any_batch(stream, rng, monkeypatch):
    monkeypatch.setattr("pyferrum_kv.int8_kv.decode.DETERMINISTIC_SPLIT_LEN", 32)
    cache = make_cache(rng, [70, 97, 5], num_kv_heads=1, head_dim=16)
    q = random_half(rng, (3, 2, 16), "float16")
    check_alone_and_together(stream, cache, q)


def test_lengths_may_stay_unsaid_when_all_are_equal(stream, rng):
    cache = make_cache(rng, [18, 18], head_dim=16)
    q = random_half(rng, (2, 2, 16), "float16")
    out = Guarded(stream, q.size, np.float16)
    memory = [stream.clone_htod(a.ravel()) for a in (q, cache.block_table)]
    paged_decode_attention_int8(
        stream,
        memory[0],
        cache.to_device(stream),
        memory[1],
        None,
        out.slice,
        num_q_heads=2,
        max_kv_len=18,
        entry=ENTRY,
    )
    wanted, _ = reference.paged_decode_attention_int8(
        q, *cache.arrays, cache.block_table, cache.kv_lens
    )
    assert_close(out.read(), wanted)


@pytest.mark.parametrize("q_len", [2, 5])
def test_query_tokens_see_only_what_is_not_after_them(stream, rng, q_len):
    cache = make_cache(rng, [23, 3, q_len], num_kv_heads=2, head_dim=16)
    check(stream, cache, random_half(rng, (3 * q_len, 4, 16), "float16"), q_len=q_len)


def test_query_tokens_before_the_sequence_began_see_nothing(stream, rng):
    cache = make_cache(rng, [2, 0], num_kv_heads=1, head_dim=16)
    check(stream, cache, random_half(rng, (8, 2, 16), "float16"), q_len=4)


@pytest.mark.parametrize(("window_left", "q_len"), [(0, 1), (7, 1), (20, 3), (500, 2)])
def test_sliding_window(stream, rng, window_left, q_len):
    cache = make_cache(rng, [54, 12], num_kv_heads=1, head_dim=16)
    q = random_half(rng, (2 * q_len, 2, 16), "float16")
    option = {"window_left": window_left}
    check(stream, cache, q, q_len=q_len, reference_options=option, **option)
    check(stream, cache, q, q_len=q_len, reference_options=option, num_splits=3, **option)


def test_logit_softcap(stream, rng):
    cache = make_cache(rng, [40], num_kv_heads=1, head_dim=32)
    q = random_half(rng, (1, 2, 32), "float16") * np.float16(8)
    option = {"logit_softcap": 5.0}
    check(stream, cache, q, reference_options=option, **option)


def test_sinks_join_the_sum_once_whatever_the_splits(stream, rng):
    cache = make_cache(rng, [70, 0], num_kv_heads=2, head_dim=16)
    q = random_half(rng, (2, 4, 16), "float16")
    arrays = {"sinks": np.array([-1.0, 0.5, 3.0, 9.0], np.float32)}
    check(stream, cache, q, arrays=arrays)
    check(stream, cache, q, arrays=arrays, num_splits=4)


def test_alibi_slopes_and_k_channel_factors(stream, rng):
    cache = make_cache(rng, [41, 9], num_kv_heads=2, head_dim=16)
    q = random_half(rng, (4, 4, 16), "float16")
    arrays = {
        "alibi_slopes": np.array([0.5, 0.25, 0.125, 0.0625], np.float32),
        "k_channel_factors": rng.uniform(0.1, 3.0, (2, 16)).astype(np.float32),
    }
    check(stream, cache, q, q_len=2, arrays=arrays)


@pytest.mark.parametrize("v_factor", [1e-5, 1e-3])
def test_small_v_scales_lose_nothing(stream, rng, v_factor):
    cache = make_cache(rng, [60], num_kv_heads=1, head_dim=32, v_factor=v_factor * 40)
    q = random_half(rng, (1, 2, 32), "float16")
    out, _ = decode(stream, cache, q)
    wanted, _ = reference.paged_decode_attention_int8(
        q, *cache.arrays, cache.block_table, cache.kv_lens
    )
    # fp16 output has 2^-24 of absolute resolution, and 2^-11 of relative
    np.testing.assert_allclose(out.astype(np.float64), wanted, rtol=1e-3, atol=2.0**-24)


def test_logits_far_below_zero_are_a_softmax_all_the_same(stream, rng):
    cache = make_cache(rng, [30], num_kv_heads=1, head_dim=16)
    q = random_half(rng, (1, 2, 16), "float16")
    option = {"softmax_scale": -4000.0}
    out, _ = decode(stream, cache, q, **option)
    wanted, _ = reference.paged_decode_attention_int8(
        q, *cache.arrays, cache.block_table, cache.kv_lens, **option
    )
    np.testing.assert_allclose(out.astype(np.float64), wanted, atol=1e-2)


def test_a_nan_scale_poisons_who_attends_to_it_and_nobody_else(stream, rng):
    cache = make_cache(rng, [20, 20], num_kv_heads=2, head_dim=16)
    block, offset = cache.block_table[0, 1], 2  # token 18 of sequence 0
    cache.v_scales[block, offset, 1] = np.nan
    q = random_half(rng, (4, 2, 16), "float16")
    out, _ = decode(stream, cache, q, q_len=2)  # at positions 18 and 19
    assert np.isnan(out[:2, 1]).all()
    assert np.isfinite(out[:2, 0]).all()
    assert np.isfinite(out[2:]).all()
    cache = HostCache(cache.layout, *cache.arrays, cache.block_table[:1], np.array([19], np.int32))
    out, _ = decode(stream, cache, q[:2], q_len=2)  # at positions 17 and 18: the first is before it
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1, 1]).all()


def test_a_block_outside_the_pool_gives_nan_and_no_stray_read(stream, rng):
    cache = make_cache(rng, [20, 20], num_kv_heads=1, head_dim=16)
    cache.block_table[0, 1] = cache.layout.num_blocks
    out, _ = decode(stream, cache, random_half(rng, (2, 1, 16), "float16"))
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()


def test_a_length_above_the_bound_gives_nan_and_no_stray_read(stream, rng):
    cache = make_cache(rng, [20, 16], num_kv_heads=1, head_dim=16)
    q = random_half(rng, (2, 1, 16), "float16")
    out, _ = decode(stream, cache, q, max_kv_len=16)
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()


def test_strided_q_and_out_leave_the_gaps_alone(stream, rng):
    cache = make_cache(rng, [18, 7], num_kv_heads=1, head_dim=16)
    fused = random_half(rng, (2, 4, 16), "float16")  # q is heads 1 and 2 of 4
    memory = [stream.clone_htod(a.ravel()) for a in (fused, cache.block_table, cache.kv_lens)]
    out = Guarded(stream, 2 * 4 * 16, np.float16)
    paged_decode_attention_int8(
        stream,
        memory[0][16:],
        cache.to_device(stream),
        memory[1],
        memory[2],
        out.slice[16:],
        num_q_heads=2,
        max_kv_len=18,
        q_strides=(64, 16),
        out_strides=(64, 16),
        entry=ENTRY,
    )
    wanted, _ = reference.paged_decode_attention_int8(
        fused[:, 1:3], *cache.arrays, cache.block_table, cache.kv_lens
    )
    got = out.read().reshape(2, 4, 16)
    assert_close(got[:, 1:3], wanted)
    assert (np.ascontiguousarray(got[:, ::3]).view(np.uint8) == 0xA5).all()


def test_scaling_v_scales_the_output(stream, rng):
    cache = make_cache(rng, [33], num_kv_heads=1, head_dim=16)
    q = random_half(rng, (1, 2, 16), "float16")
    once, lse = decode(stream, cache, q)
    cache.v_scales[:] *= np.float16(4)
    four_times, same_lse = decode(stream, cache, q)
    np.testing.assert_array_equal(four_times, once * np.float16(4))
    np.testing.assert_array_equal(same_lse, lse)
