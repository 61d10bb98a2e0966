"""The plan of the general decode entries: every shape, 8 query rows a CTA, no tensor cores."""

from __future__ import annotations

from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv.plan import (
    MAX_GRID_X,
    STATE_PADDING,
    Budget,
    DecodeEntry,
    DecodePlan,
    DecodeShape,
)
from pyferrum_kv.int8_kv.split import choose_num_splits, deterministic_num_splits

WARPS, ROWS = 4, 8  # as in kernels/row_tile.cuh


def plan_general(entry: str, shape: DecodeShape, budget: Budget, num_splits: int) -> DecodePlan:
    row_tiles = -(-shape.num_rows // ROWS)
    ctas = shape.batch_size * shape.num_kv_heads * row_tiles
    state_floats = shape.head_dim + STATE_PADDING
    floats_a_split = shape.batch_size * shape.num_kv_heads * shape.num_rows * state_floats
    reason = "any shape"
    if shape.split_len:
        num_splits = deterministic_num_splits(shape.max_kv_len, shape.split_len)
        reason += f", deterministic splits of {shape.split_len}"
    elif num_splits:
        reason += f", {num_splits} splits asked for"
    else:
        most = budget.workspace_floats // max(floats_a_split, 1)
        most = min(most, MAX_GRID_X // max(ctas, 1)) if ctas <= budget.num_counters else 1
        num_splits = choose_num_splits(ctas, shape.max_visible, budget.num_sms, most=most)
        reason += f", {ctas} CTAs a split on {budget.num_sms} SMs"
    used = (floats_a_split * num_splits, ctas) if num_splits > 1 else (0, 0)
    if ctas * num_splits > MAX_GRID_X:
        raise ArgumentError(
            f"{entry}: batch_size * num_kv_heads * row tiles * splits is {ctas * num_splits};"
            f" wanted at most {MAX_GRID_X}"
        )
    return DecodePlan(
        entry=entry,
        grid_dim=(max(ctas * num_splits, 1), 1, 1),
        block_dim=(32 * WARPS, 1, 1),
        shared_mem_bytes=4 * ((WARPS - 1) * ROWS + min(shape.num_rows, ROWS)) * state_floats,
        num_splits=num_splits,
        split_len=shape.split_len,
        workspace_floats=used[0],
        num_counters=used[1],
        reason=reason,
    )


GENERAL = DecodeEntry("paged_decode_attention_int8", lambda shape: "", plan_general)
