"""merge_attention_states: as the reference does it, and as decoding the whole would have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.decode import decode
from helpers.kv_cache import Guarded, HostCache, assert_close, make_cache, random_half, widened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyferrum_kv import (
    ArgumentError,
    ClosedError,
    CudaStream,
    bfloat16,
    from_bfloat16,
    reference,
    to_bfloat16,
)
from pyferrum_kv.int8_kv import merge_attention_states

DTYPES = {"float16": np.float16, "bfloat16": bfloat16, "float32": np.float32}
TOLERANCE = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 2e-6}


def states(rng, num_states, num_tokens, num_q_heads, head_dim, dtype="float16"):
    """N(0, 1) rows and lse over a wide range; about a third of the rows saw no token."""
    shape = (num_states, num_tokens, num_q_heads)
    rows = rng.standard_normal((*shape, head_dim)).astype(np.float32)
    lse = (5 * rng.standard_normal(shape)).astype(np.float32)
    lse[rng.random(shape) < 0.3] = -np.inf
    rows = to_bfloat16(rows) if dtype == "bfloat16" else rows.astype(DTYPES[dtype])
    return rows, lse


def merge(stream: CudaStream, rows: np.ndarray, lse: np.ndarray, **options: Any):
    """out and lse from the device, between guards."""
    num_states, _, num_q_heads, head_dim = rows.shape
    out = Guarded(stream, rows[0].size, rows.dtype)
    merged_lse = Guarded(stream, lse[0].size, np.float32)
    merge_attention_states(
        stream,
        stream.clone_htod(rows.ravel()),
        stream.clone_htod(lse.ravel()),
        out.slice,
        num_states=num_states,
        num_q_heads=num_q_heads,
        head_dim=head_dim,
        lse=merged_lse.slice,
        **options,
    )
    return out.read().reshape(rows.shape[1:]), merged_lse.read().reshape(lse.shape[1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_states", "num_tokens", "num_q_heads", "head_dim"),
    [(1, 1, 1, 8), (2, 3, 4, 64), (5, 2, 3, 80), (3, 7, 2, 256), (9, 1, 1, 128)],
)
def test_it_equals_the_reference(stream, rng, dtype, num_states, num_tokens, num_q_heads, head_dim):
    rows, lse = states(rng, num_states, num_tokens, num_q_heads, head_dim, dtype)
    rows[np.isneginf(lse)] = to_bfloat16(np.nan) if dtype == "bfloat16" else np.nan
    out, merged = merge(stream, rows, lse)
    wanted, wanted_lse = reference.merge_attention_states(rows, lse)
    error = np.abs(widened(out) - wanted)
    assert (error <= TOLERANCE[dtype] * np.maximum(1, np.abs(wanted))).all(), error.max()
    np.testing.assert_array_equal(np.isneginf(merged), np.isneginf(wanted_lse))
    seen = np.isfinite(wanted_lse)
    np.testing.assert_allclose(merged[seen], wanted_lse[seen], atol=2e-6, rtol=1e-6)


def test_states_that_saw_nothing_give_zeros_and_minus_infinity(stream):
    rows = np.full((3, 2, 1, 8), np.nan, np.float16)
    out, lse = merge(stream, rows, np.full((3, 2, 1), -np.inf, np.float32))
    assert (out == 0).all()
    assert np.isneginf(lse).all()


def test_a_poisoned_state_poisons_its_row_alone(stream, rng):
    rows, lse = states(rng, 3, 4, 1, 16)
    lse[:] = 1.0
    lse[0, 0], lse[1, 1] = np.nan, np.inf
    rows[2, 2, 0, 5] = np.nan
    out, merged = merge(stream, rows, lse)
    assert np.isnan(out[:2]).all()
    assert np.isnan(merged[:2]).all()
    assert np.isnan(out[2, 0]).nonzero()[0].tolist() == [5]
    assert np.isfinite(out[3]).all()


@pytest.mark.parametrize("size", [1e30, -1e30, 88.0, -104.0])
def test_no_lse_overflows(stream, rng, size):
    rows, _ = states(rng, 4, 1, 2, 8)
    lse = np.full((4, 1, 2), size, np.float32)
    out, merged = merge(stream, rows, lse)
    np.testing.assert_allclose(widened(out), widened(rows).mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(merged, size + np.log(4), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("lengths", [[33, 7], [1, 0, 54], [16, 16, 16, 5]])
def test_decoding_parts_and_merging_is_decoding_the_whole(stream, rng, dtype, lengths):
    """One context cut at whole blocks, or anywhere: each part has a block table of its own."""
    cache = make_cache(rng, [sum(lengths)], block_size=1, num_kv_heads=2, head_dim=64)
    q = random_half(rng, (1, 8, 64), dtype)
    whole, whole_lse = decode(stream, cache, q)
    parts, first = [], 0
    for length in lengths:
        table = cache.block_table[:, first:]
        part = HostCache(cache.layout, *cache.arrays, table, np.array([length], np.int32))
        parts.append(decode(stream, part, q))
        first += length
    out, lse = merge(stream, *map(np.stack, zip(*parts, strict=True)))
    assert_close(out, widened(whole), dtype)
    np.testing.assert_allclose(lse, whole_lse, atol=1e-3)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(5)))
def test_the_order_of_states_changes_rounding_alone(stream, order):
    rows, lse = states(np.random.default_rng(7), 5, 2, 2, 16, "float32")
    one, one_lse = merge(stream, rows, lse)
    other, other_lse = merge(stream, rows[order], lse[order])
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(one_lse, other_lse, atol=1e-6)


@pytest.mark.parametrize("offset", [0, 1, 8])
def test_states_may_lie_apart_and_at_any_address(stream, rng, offset):
    rows, lse = states(rng, 3, 2, 2, 24)
    stride, lse_stride = 2 * 2 * 24 + offset, 2 * 2 + 3
    memory = np.full(offset + 3 * stride, np.nan, np.float16)
    lse_memory = np.full(3 * lse_stride, np.nan, np.float32)
    for s in range(3):
        memory[offset + s * stride :][: rows[0].size] = rows[s].ravel()
        lse_memory[s * lse_stride :][: lse[0].size] = lse[s].ravel()
    out = Guarded(stream, rows[0].size, np.float16)
    merge_attention_states(
        stream,
        stream.clone_htod(memory)[offset:],
        stream.clone_htod(lse_memory),
        out.slice,
        num_states=3,
        num_q_heads=2,
        head_dim=24,
        state_stride=stride,
        lse_state_stride=lse_stride,
    )
    wanted, _ = reference.merge_attention_states(rows, lse)
    np.testing.assert_allclose(widened(out.read().reshape(2, 2, 24)), wanted, atol=1e-3)


def test_no_token_is_no_launch(stream):
    nothing, none = stream.alloc(0, np.float16), stream.alloc(0, np.float32)
    merge_attention_states(stream, nothing, none, nothing, num_states=2, num_q_heads=4, head_dim=64)


@pytest.fixture
def call(stream: CudaStream) -> dict[str, Any]:
    return {
        "partial_out": stream.alloc_zeros(2 * 3 * 2 * 16, np.float16),
        "partial_lse": stream.alloc_zeros(2 * 3 * 2, np.float32),
        "out": stream.alloc_zeros(3 * 2 * 16, np.float16),
        "lse": stream.alloc_zeros(3 * 2, np.float32),
        "num_states": 2,
        "num_q_heads": 2,
        "head_dim": 16,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_states": 0}, "num_states is 0; wanted 1 to"),
        ({"num_states": 3}, r"partial_out has 192 elements; wanted at least 288 \(3 states of"),
        ({"num_q_heads": 0}, "num_q_heads is 0; wanted 1 to"),
        ({"head_dim": 12}, "head_dim is 12; wanted a multiple of 8"),
        ({"num_tokens": 4}, r"partial_out has 192 elements; wanted at least 256"),
        ({"num_tokens": -1}, "num_tokens is -1; wanted 0 to"),
        ({"num_tokens": "all"}, "num_tokens is 'all'; wanted an integer"),
        ({"state_stride": 97}, r"partial_out has 192 elements; wanted at least 193"),
        ({"lse_state_stride": 7}, r"partial_lse has 12 elements; wanted at least 13"),
        ({"state_stride": -1}, "state_stride is -1; wanted 0 to"),
        ({"partial_out": None}, "partial_out is NoneType; wanted a slice of float16 or bfloat16"),
    ],
)
def test_it_refuses(stream, call, changed, message):
    with pytest.raises(ArgumentError, match=f"merge_attention_states: {message}"):
        merge_attention_states(stream, **{**call, **changed})
    merge_attention_states(stream, **call)


def test_it_refuses_other_types_overlaps_and_closed_slices(stream, call):
    with pytest.raises(ArgumentError, match="out is a slice of float32; wanted float16"):
        merge_attention_states(stream, **{**call, "out": stream.alloc(96, np.float32)})
    with pytest.raises(ArgumentError, match="partial_lse is a slice of float16; wanted float32"):
        merge_attention_states(stream, **{**call, "partial_lse": stream.alloc(12, np.float16)})
    with pytest.raises(ArgumentError, match=r"out at .* overlaps partial_out at"):
        merge_attention_states(stream, **{**call, "out": call["partial_out"][:96]})
    with pytest.raises(ArgumentError, match=r"lse has 5 elements; wanted at least 6"):
        merge_attention_states(stream, **{**call, "lse": call["lse"][:5]})
    merge_attention_states(stream, **call)
    call["partial_lse"].close()
    with pytest.raises(ClosedError, match=r"partial_lse is .*closed"):
        merge_attention_states(stream, **call)


def test_the_bfloat16_rounding_of_the_output_is_to_nearest(stream):
    rows = to_bfloat16(np.array([1.0, 1.0078125], np.float32).reshape(2, 1, 1, 1).repeat(8, 3))
    out, _ = merge(stream, rows, np.zeros((2, 1, 1), np.float32))
    assert (from_bfloat16(out) == 1.0).all()  # 1.00390625, a tie: to even
