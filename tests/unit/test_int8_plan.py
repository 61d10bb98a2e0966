"""Which entry, how many splits: decided from sizes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv import ArgumentError
from pyferrum_kv.int8_kv import Budget, DecodeShape, explain
from pyferrum_kv.int8_kv.explain import ENTRIES
from pyferrum_kv.int8_kv.split import (
    MIN_SPLIT_TOKENS,
    choose_num_splits,
    deterministic_num_splits,
)

GENERAL = "paged_decode_attention_int8"
H200 = Budget.reserved(num_sms=132)
SHAPE = DecodeShape(
    batch_size=1, num_q_heads=32, num_kv_heads=8, head_dim=128, block_size=16, max_kv_len=8192
)


@pytest.mark.parametrize(("batch_size", "num_splits"), [(1, 43), (16, 3), (64, 2), (128, 1)])
def test_the_worked_numbers_of_split_py(batch_size, num_splits):
    assert choose_num_splits(8 * batch_size, 8192, 132, most=1000) == num_splits


@given(st.integers(1, 5000), st.integers(0, 1 << 20), st.integers(1, 200), st.integers(0, 500))
def test_splits_stay_within_what_is_allowed_and_useful(num_ctas, max_kv_len, num_sms, most):
    num_splits = choose_num_splits(num_ctas, max_kv_len, num_sms, most=most)
    assert 1 <= num_splits <= max(1, most)
    assert num_splits == 1 or num_splits * MIN_SPLIT_TOKENS <= max_kv_len


@given(st.integers(0, 1 << 30), st.integers(1, 1 << 20))
def test_deterministic_splits_cover_the_length(max_kv_len, split_len):
    num_splits = deterministic_num_splits(max_kv_len, split_len)
    assert num_splits * split_len >= max_kv_len
    assert num_splits == 1 or (num_splits - 1) * split_len < max_kv_len


def test_the_last_entry_serves_every_shape():
    assert ENTRIES[-1].stem == GENERAL
    for head_dim in range(8, 257, 8):
        odd = replace(SHAPE, head_dim=head_dim, num_q_heads=88, block_size=5, q_len=3)
        assert ENTRIES[-1].refuses(odd) == ""


def test_an_entry_that_is_asked_for_is_taken():
    plan = explain(SHAPE, H200, entry=GENERAL)
    assert plan.entry == GENERAL
    assert all("asked for" in why for _, why in plan.passed_over)
    assert explain(replace(SHAPE, dtype="bfloat16"), H200, entry=GENERAL).entry == f"{GENERAL}_bf16"


def test_an_entry_that_the_bundle_lacks_is_passed_over():
    plan = explain(SHAPE, H200, available=[GENERAL])
    assert plan.entry == GENERAL
    assert len(plan.passed_over) == len(ENTRIES) - 1


def test_an_unknown_entry_is_refused_with_those_there_are():
    with pytest.raises(ArgumentError, match=f"no entry serves .*{GENERAL}: fast was asked for"):
        explain(SHAPE, H200, entry="fast")


def test_num_splits_that_are_asked_for_are_taken():
    plan = explain(SHAPE, H200, entry=GENERAL, num_splits=5)
    assert (plan.num_splits, plan.grid_dim) == (5, (40, 1, 1))


@given(
    batch_size=st.integers(1, 600),
    group=st.integers(1, 40),
    num_kv_heads=st.integers(1, 16),
    head_dim=st.sampled_from([8, 64, 80, 128, 256]),
    q_len=st.integers(1, 8),
    max_kv_len=st.integers(0, 1 << 20),
    floats=st.sampled_from([0, 1000, 1 << 20, 1 << 23]),
    counters=st.sampled_from([0, 10, 1 << 16]),
)
def test_a_plan_stays_within_workspace_and_limits(
    batch_size, group, num_kv_heads, head_dim, q_len, max_kv_len, floats, counters
):
    shape = DecodeShape(
        batch_size=batch_size,
        num_q_heads=group * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        block_size=16,
        max_kv_len=max_kv_len,
        q_len=q_len,
    )
    plan = explain(shape, Budget(132, floats, counters))
    assert plan.workspace_floats <= floats
    assert plan.num_counters <= counters
    assert min(plan.grid_dim) >= 1


def test_a_deterministic_plan_does_not_depend_on_batch_or_device():
    alone = replace(SHAPE, split_len=1024, max_kv_len=100_000)
    many = replace(alone, batch_size=3)
    plans = [
        explain(alone, H200, entry=GENERAL),
        explain(many, replace(H200, num_sms=40), entry=GENERAL),
    ]
    assert [(plan.num_splits, plan.split_len) for plan in plans] == [(98, 1024)] * 2


def test_a_deterministic_plan_that_does_not_fit_says_what_would():
    shape = replace(SHAPE, split_len=1024, max_kv_len=131072, batch_size=64)
    with pytest.raises(ArgumentError, match=r"give Workspace\.allocate\(stream, 34603008\)"):
        explain(shape, Budget(132, 1 << 20, 1 << 16), entry=GENERAL)


def test_a_window_bounds_what_is_worth_splitting():
    windowed = explain(replace(SHAPE, window_left=127), H200, entry=GENERAL)
    assert windowed.num_splits == 2


def test_a_plan_explains_itself():
    lines = str(explain(SHAPE, H200, entry=GENERAL)).splitlines()
    assert lines[0] == f"{GENERAL}: any shape, 8 CTAs a split on 132 SMs"
    assert lines[1] == "  grid (344, 1, 1) block (128, 1, 1) shared 14784 bytes"
    assert lines[2] == "  43 splits; workspace 726528 bytes, 8 counters"
