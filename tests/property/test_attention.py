"""The reference's own promises: what must hold whatever the numbers are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv import reference

seeds = st.integers(0, 2**32 - 1)


def tokens(seed: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((4, 8))
    return q, *rng.standard_normal((2, num_tokens, 2, 8))


@given(seeds, st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_merging_parts_is_attending_to_the_whole(seed, lengths):
    q, k, v = tokens(seed, sum(lengths))
    scale = {"softmax_scale": 0.3}
    whole = reference.attention(q, k, v, **scale)
    ends = np.cumsum(lengths)
    parts = [
        reference.attention(q, k[end - n : end], v[end - n : end], **scale)
        for n, end in zip(lengths, ends, strict=True)
    ]
    merged = reference.merge_attention_states(*map(np.stack, zip(*parts, strict=True)))
    np.testing.assert_allclose(merged[0], whole[0], atol=1e-12)
    np.testing.assert_allclose(merged[1], whole[1], atol=1e-12)


@given(seeds, st.integers(1, 9))
def test_the_output_is_a_mean_of_values_and_moves_with_them(seed, num_tokens):
    q, k, v = tokens(seed, num_tokens)
    out, _ = reference.attention(q, k, v, softmax_scale=0.3)
    grouped = out.reshape(2, 2, 8)
    assert (grouped <= v.max(axis=0)[:, None] + 1e-12).all()
    assert (grouped >= v.min(axis=0)[:, None] - 1e-12).all()
    shifted, _ = reference.attention(q, k, v + 5.0, softmax_scale=0.3)
    np.testing.assert_allclose(shifted, out + 5.0, atol=1e-12)


@given(seeds, st.integers(1, 9))
def test_a_sink_takes_weight_and_gives_no_value(seed, num_tokens):
    q, k, v = tokens(seed, num_tokens)
    sinks = np.array([-3.0, 0.0, 1.0, 4.0], np.float32)
    out, lse = reference.attention(q, k, v, softmax_scale=0.3)
    drained, joined = reference.attention(q, k, v, softmax_scale=0.3, sinks=sinks)
    np.testing.assert_allclose(joined, np.logaddexp(lse, sinks.astype(np.float64)), atol=1e-12)
    np.testing.assert_allclose(drained, out * np.exp(lse - joined)[:, None], atol=1e-12)


@given(seeds, st.permutations(range(6)))
def test_the_order_of_physical_blocks_changes_nothing(seed, order):
    rng = np.random.default_rng(seed)
    pools = [rng.integers(-127, 128, (6, 3, 1, 8), dtype=np.int8) for _ in "kv"]
    scales = [rng.uniform(0.01, 0.02, (6, 3, 1)).astype(np.float16) for _ in "kv"]
    q = rng.standard_normal((1, 2, 8))
    table = np.arange(6, dtype=np.int32)[None]
    kv_lens = np.array([16], np.int32)
    before = reference.paged_decode_attention_int8(q, *pools, *scales, table, kv_lens)
    moved = [array[np.argsort(order)] for array in (*pools, *scales)]
    new_table = np.array(order, np.int32)[None]
    after = reference.paged_decode_attention_int8(q, *moved, new_table, kv_lens)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
