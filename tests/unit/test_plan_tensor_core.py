"""How the tensor-core entries are chosen and cut, from sizes alone."""

from __future__ import annotations

import pytest

from pyferrum_kv.int8_kv.explain import ENTRIES, explain
from pyferrum_kv.int8_kv.plan import Budget, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_cluster import CLUSTER
from pyferrum_kv.int8_kv.plan_tma import TMA

H200 = Budget.reserved(132)
EVERYWHERE = frozenset(entry.stem for entry in ENTRIES if entry not in (*CLUSTER, *TMA))
"""What a device without Hopper's instructions has."""


def plan(batch_size: int, max_kv_len: int, q: int = 32, kv: int = 8, **sizes: int) -> DecodePlan:
    sizes = {"head_dim": 128, "block_size": 16} | sizes
    return explain(
        DecodeShape(batch_size, q, kv, max_kv_len=max_kv_len, **sizes), H200, available=EVERYWHERE
    )


@pytest.mark.parametrize(
    ("batch_size", "max_kv_len", "grid_dim"),
    [(1, 131072, (33, 8, 1)), (64, 2048, (64, 4, 1)), (256, 8192, (132, 2, 1))],
)
def test_the_worked_numbers_of_the_module(
    batch_size: int, max_kv_len: int, grid_dim: tuple[int, int, int]
) -> None:
    assert plan(batch_size, max_kv_len).grid_dim == grid_dim


def test_one_wave_holds_the_grid_and_no_worker_is_without_a_step() -> None:
    for batch_size in (1, 2, 3, 7, 16, 33, 64, 100, 300):
        for max_kv_len in (1, 17, 1000, 131072):
            x, y, z = plan(batch_size, max_kv_len).grid_dim
            assert x * y * z <= 264
            assert x <= batch_size * -(-max_kv_len // 16)


def test_rows_decide_the_tile() -> None:
    assert plan(32, 4096, q=64).entry.endswith("_d128")
    assert plan(32, 4096, q=32, kv=2).entry.endswith("_d128_rows16")
    assert plan(32, 4096, q=64, q_len=2).entry.endswith("_d128_rows16")
    assert plan(32, 4096, q=32, kv=2, head_dim=256).grid_dim[2] == 2


@pytest.mark.parametrize(
    ("head_dim", "places"), [(32, 264), (64, 264), (80, 264), (96, 264), (192, 132), (256, 132)]
)
def test_each_head_dim_has_an_entry_that_fills_the_device(head_dim: int, places: int) -> None:
    for block_size, suffix in ((16, ""), (5, "_any_block")):
        made = plan(1, 1 << 20, head_dim=head_dim, block_size=block_size)
        assert made.entry == f"paged_decode_attention_int8_d{head_dim}{suffix}"
        x, y, _ = made.grid_dim
        most = 132 if head_dim == 64 and suffix else places
        assert most - y < x * y <= most


def test_channel_factors_take_row_tiles_of_four() -> None:
    given = {"has_k_channel_factors": True}
    assert plan(4, 4096, **given).entry.endswith("_d128")
    assert plan(4, 4096, **given).grid_dim[2] == 1
    wide = plan(4, 4096, q=64, kv=4, **given)
    assert wide.entry.endswith("_d128")
    assert wide.grid_dim[2] == 4
    assert wide.shared_mem_bytes == plan(4, 4096, q=32, kv=4).shared_mem_bytes


def test_blocks_that_hold_no_whole_tile_are_looked_up_token_by_token() -> None:
    assert plan(4, 4096, block_size=8).entry.endswith("_d128_any_block")
    assert plan(4, 4096, block_size=48).entry.endswith("_d128")


@pytest.mark.parametrize("sizes", [{"head_dim": 112}, {"q_alignment": 4}, {"kv_alignment": 8}])
def test_what_they_do_not_serve_goes_to_the_general_entry(sizes: dict[str, int]) -> None:
    assert plan(4, 4096, **sizes).entry == "paged_decode_attention_int8"


def test_a_deterministic_cut_has_a_slot_for_each_split_whatever_the_batch_is() -> None:
    alone, among = (plan(n, 10000, split_len=1024) for n in (1, 8))
    assert alone.num_splits == among.num_splits == 10
    assert among.workspace_floats == 8 * alone.workspace_floats == 8 * 10 * 32 * 132
