"""When the entries that only Hopper runs are chosen, and how they are cut, from sizes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyferrum_kv import CudaContext
from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv.explain import explain
from pyferrum_kv.int8_kv.plan import Budget, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_tma import PRODUCERS, SHARED_BYTES, box_heads, chunk_bytes
from pyferrum_kv.int8_kv.workspace import Workspace
from pyferrum_kv.virtual import VirtualDriver

H200 = Budget.reserved(132)
DECODE = "paged_decode_attention_int8"


def plan(
    batch_size: int,
    max_kv_len: int,
    q: int = 32,
    kv: int = 8,
    entry: str = "",
    budget: Budget = H200,
    num_splits: int = 0,
    **sizes: int,
) -> DecodePlan:
    sizes = {"head_dim": 128, "block_size": 16} | sizes
    shape = DecodeShape(batch_size, q, kv, max_kv_len=max_kv_len, **sizes)
    return explain(shape, budget, entry=entry, num_splits=num_splits)


@pytest.mark.parametrize(
    ("batch_size", "max_kv_len", "q", "kv", "family", "grid_dim"),
    [
        (1, 1024, 32, 8, "_cluster_d128", (8, 8, 1)),
        (1, 8192, 32, 8, "_cluster_d128", (16, 8, 1)),
        (1, 16384, 32, 8, "_d128", (33, 8, 1)),
        (2, 4096, 32, 8, "_cluster_d128", (8, 8, 2)),
        (2, 8192, 32, 8, "_d128", (32, 8, 1)),
        (1, 32768, 32, 8, "_d128", (33, 8, 1)),
        (64, 2048, 32, 8, "_d128", (64, 4, 1)),
        (128, 1024, 32, 8, "_d128", (128, 2, 1)),
        (128, 2048, 32, 8, "_d128", (128, 2, 1)),
        (32, 4096, 64, 8, "_tma_d128", (32, 4, 1)),
        (256, 8192, 32, 8, "_tma_d128", (33, 4, 1)),
        (16, 4096, 32, 32, "_tma_d128", (8, 16, 1)),
        (1, 131072, 32, 8, "_d128", (33, 8, 1)),
        (8, 4096, 32, 2, "_d128_rows16", (64, 2, 1)),
        (32, 4096, 32, 2, "_tma_d128_rows16", (128, 1, 1)),
        (32, 4096, 40, 4, "_tma_d128_rows16", (64, 2, 1)),
    ],
)
def test_who_serves_what(
    batch_size: int,
    max_kv_len: int,
    q: int,
    kv: int,
    family: str,
    grid_dim: tuple[int, int, int],
) -> None:
    made = plan(batch_size, max_kv_len, q, kv)
    assert made.entry == DECODE + family
    assert made.grid_dim == grid_dim


def test_a_cluster_is_the_whole_of_grid_x_and_takes_no_workspace() -> None:
    made = plan(1, 8192)
    assert made.cluster_dim == (16, 1, 1)
    assert made.workspace_floats == made.num_counters == 0


@pytest.mark.parametrize(("batch_size", "ctas"), [(1, 8), (2, 4), (4, 2)])
def test_a_cluster_of_one_cta_an_sm_leaves_half_of_the_device(batch_size: int, ctas: int) -> None:
    made = plan(batch_size, 512 if batch_size == 4 else 1024, head_dim=256)
    assert made.cluster_dim == (ctas, 1, 1)


def test_two_sequences_of_wide_rows_are_cut_over_clusters_too() -> None:
    """Not over 16 workers each, whose states take longer to merge than the tokens to read."""
    assert plan(2, 2048, head_dim=256).entry == f"{DECODE}_cluster_d256"
    assert plan(2, 4096, head_dim=256).entry == f"{DECODE}_d256"


def test_what_the_shared_memory_holds() -> None:
    for head_dim in (64, 80, 96, 128):
        entry = f"_tma_d{head_dim}"
        for kv in (1, 2, 3, 8, 32, 128):
            made = plan(300, 8192, 4 * kv, kv, DECODE + entry, head_dim=head_dim)
            stripes = (made.block_dim[0] // 32 - PRODUCERS) // made.box_heads
            slab = 32 * (made.box_heads * head_dim + 2 * kv)
            assert made.ring_depth >= 1
            assert made.box_heads.bit_count() == 1  # the kernel is told its logarithm
            assert made.ring_depth * stripes <= 64
            assert made.ring_depth * stripes * slab < made.shared_mem_bytes <= SHARED_BYTES


def test_a_box_is_large_enough_to_be_limited_by_bytes() -> None:
    assert {n: box_heads(n) for n in (64, 80, 96, 128)} == {64: 4, 80: 4, 96: 4, 128: 2}


@pytest.mark.parametrize(
    ("family", "head_dim"), [("cluster", 64), ("cluster", 128), ("cluster", 256), ("tma", 128)]
)
def test_the_most_rows_fit_the_shared_memory_that_an_entry_may_have(
    family: str, head_dim: int
) -> None:
    made = plan(1, 8192, 64, 8, f"{DECODE}_{family}_d{head_dim}", head_dim=head_dim)
    limits = PtxBundle.default().signature(made.entry).limits
    assert limits.max_dynamic_shared_bytes is not None
    assert made.shared_mem_bytes <= limits.max_dynamic_shared_bytes


@pytest.mark.parametrize(
    ("head_dim", "batch_size", "family"),
    [(128, 128, "_d128"), (128, 256, "_tma_d128"), (64, 128, "_d64"), (64, 256, "_tma_d64")],
)
def test_an_uneven_cut_is_taken_where_nobody_cuts_evenly(
    head_dim: int, batch_size: int, family: str
) -> None:
    """On an H200, 2048 tokens: 145 us against 137; 160 against 174 of one worker a sequence."""
    assert plan(batch_size, 2048, head_dim=head_dim).entry == DECODE + family


def test_a_sequence_in_many_parts_is_left_to_ctas_that_share_an_sm() -> None:
    passed_over = dict(plan(1, 131072).passed_over)
    assert "33 parts of a sequence" in passed_over[f"{DECODE}_tma_d128"]


def test_an_entry_asked_for_is_taken_though_another_would_be_quicker() -> None:
    assert plan(64, 2048, entry=f"{DECODE}_tma_d128").entry == f"{DECODE}_tma_d128"
    assert plan(64, 2048, entry=f"{DECODE}_cluster_d128").entry == f"{DECODE}_cluster_d128"
    passed_over = dict(plan(64, 2048).passed_over)
    assert "unevenly" in passed_over[f"{DECODE}_tma_d128"]
    assert "for one or few only" in passed_over[f"{DECODE}_cluster_d128"]


def test_a_device_with_less_shared_memory_and_smaller_clusters_is_served() -> None:
    small = replace(Budget.reserved(170), shared_bytes=101_376, max_cluster=8)
    made = plan(256, 8192, budget=small)
    assert made.entry == f"{DECODE}_d128"
    passed_over = dict(made.passed_over)
    assert "and the device has 101376" in passed_over[f"{DECODE}_tma_d128"]
    assert plan(1, 4096, budget=small).cluster_dim == (8, 1, 1)
    asked = f"{DECODE}_tma_d128"
    with pytest.raises(ArgumentError, match=f"{asked}: it takes .* and the device has 101376"):
        plan(256, 8192, budget=small, entry=asked)


@pytest.mark.parametrize(("num_splits", "ctas"), [(1, 1), (3, 2), (8, 8), (15, 8), (40, 16)])
def test_a_cluster_cuts_into_a_power_of_two(num_splits: int, ctas: int) -> None:
    made = plan(1, 8192, entry=f"{DECODE}_cluster_d128", num_splits=num_splits)
    assert made.cluster_dim == (ctas, 1, 1)
    assert made.num_splits == ctas


def test_a_context_says_what_its_device_has() -> None:
    with CudaContext.new(0, driver=VirtualDriver()) as ctx:
        found = Budget.of(ctx)
        assert found == Budget.reserved(found.num_sms)  # which is a Hopper's
        assert (found.shared_bytes, found.max_cluster) == (232_448, 16)
        stream = ctx.new_stream()
        with Workspace.allocate(stream, 1000, num_counters=10) as workspace:
            given = Budget.of(ctx, workspace)
        assert given == replace(found, workspace_floats=1000, num_counters=10)
    with CudaContext.new(0, driver=VirtualDriver(cc=(8, 0))) as ctx:
        found = Budget.of(ctx)
        assert (found.shared_bytes, found.max_cluster) == (166_912, 8)


@pytest.mark.parametrize("sizes", [{"block_size": 8}, {"scale_alignment": 8}, {"kv_alignment": 8}])
def test_what_the_copy_engine_cannot_take_goes_elsewhere(sizes: dict[str, int]) -> None:
    assert "_tma_" not in plan(256, 8192, **sizes).entry


def test_a_deterministic_decode_takes_one_entry_alone_and_in_any_batch() -> None:
    for batch_size in (1, 2, 32, 256):
        assert plan(batch_size, 8192, split_len=1024).entry == f"{DECODE}_d128"


def test_a_row_of_a_box_is_the_widest_that_is_swizzled() -> None:
    wanted = {
        256: (128, 128),
        192: (64, 64),
        128: (128, 128),
        96: (96, 0),
        80: (80, 0),
        64: (64, 64),
    }
    assert {n: chunk_bytes(n) for n in wanted} == wanted
