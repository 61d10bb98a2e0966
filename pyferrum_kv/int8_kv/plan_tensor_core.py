"""The plans of paged_decode_attention_int8_d32 to _d256: tensor cores, work shared evenly.

The grid is (workers, head groups, row tiles). The lengths stay on the device: there, worker w takes
the w-th equal share of all tokens of the batch laid end to end (kernels/decode_work.cuh), so only
the sizes below are decided here.

A CTA's 8 warps are heads * stripes; plan_shares.py says how many heads, and how many workers.

132 SMs hold 264 CTAs of head_dim 128. With 8 KV heads and 4 query heads to each:

    batch   1   1 head   8 groups   33 workers, all on one sequence
    batch  64   2 heads  4 groups   64 workers (of 66: a multiple of the batch cuts no sequence)
    batch 256   4 heads  2 groups  132 workers (8 heads leave 256: on an H200 1 % faster for equal
                                   lengths, 32 % slower for one of 32768 beside 255 of 256)

What a worker reads is at least a step, 16 tokens for each of its stripes.
"""

from __future__ import annotations

from collections.abc import Callable

from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv.plan import STATE_PADDING, Budget, DecodeEntry, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_shares import MAX_HEADS, Shares

WARPS, TILE_TOKENS = 8, 16  # as in kernels/paged_decode_mma.cuh, decode_tile.cuh
MAX_GRID_YZ = 65535
PAIRED_ROWS = 4
"""Rows of a tile with k_channel_factors: the other four hold what fp16 leaves of the products."""
WIDE_ROW_BYTES = 192
"""From here on one CTA fills an SM, and takes two KV heads where there are several sequences."""


def _planner(
    head_dim: int, row_tile: int, ctas_per_sm: int, element_bytes: int
) -> Callable[[str, DecodeShape, Budget, int], DecodePlan]:
    def plan(entry: str, shape: DecodeShape, budget: Budget, num_splits: int) -> DecodePlan:
        rows = PAIRED_ROWS if shape.has_k_channel_factors else row_tile
        row_tiles = -(-shape.num_rows // rows)
        places = max(budget.num_sms, 1) * ctas_per_sm
        wide = head_dim * element_bytes >= WIDE_ROW_BYTES and shape.batch_size > 1
        shares = Shares.of(
            shape,
            row_tiles,
            places,
            (2 if wide else 1, MAX_HEADS),
            lambda heads: TILE_TOKENS * WARPS // heads,
            num_splits,
        )
        groups = shares.head_groups
        if max(groups, row_tiles) > MAX_GRID_YZ:
            raise ArgumentError(
                f"{entry}: head groups {groups}, row tiles {row_tiles}; wanted at most"
                f" {MAX_GRID_YZ} of each"
            )
        return DecodePlan(
            entry=entry,
            grid_dim=(shares.workers, groups, row_tiles),
            block_dim=(32 * WARPS, 1, 1),
            shared_mem_bytes=4 * WARPS * min(shape.num_rows, row_tile) * (head_dim + STATE_PADDING),
            num_splits=shares.num_splits,
            split_len=shape.split_len,
            workspace_floats=shares.workspace_floats,
            num_counters=shares.num_counters,
            programmatic=True,
            reason=f"tensor cores, {shares.heads} KV heads a CTA, {shares.workers} workers"
            f" for {shape.batch_size} sequences",
        )

    return plan


def refusal_of_shape(
    shape: DecodeShape, head_dim: int, row_tile: int = 8, whole_tiles: bool = True
) -> str:
    """Why an entry for one head_dim, that loads whole tiles, does not serve the shape, or ""."""
    if shape.head_dim != head_dim:
        return f"it serves head_dim {head_dim}"
    if row_tile == 16 and shape.num_rows <= 8:
        return "8 query rows a KV head fill no tile of 16"
    if whole_tiles and shape.block_size % TILE_TOKENS:
        return f"block_size {shape.block_size} is not a multiple of {TILE_TOKENS}"
    if shape.q_alignment % 8 or shape.kv_alignment % 16:
        return "q and out must be 8-byte aligned, the pools 16-byte aligned, strides included"
    return ""


def _refusal(
    head_dim: int, row_tile: int, whole_tiles: bool, factors: bool
) -> Callable[[DecodeShape], str]:
    def refuses(shape: DecodeShape) -> str:
        why = refusal_of_shape(shape, head_dim, row_tile, whole_tiles)
        if why:
            return why
        if shape.has_k_channel_factors and not factors:
            return "q times k_channel_factors does not fit 16 bits closely enough for lse"
        if shape.split_len and (
            shape.split_len < TILE_TOKENS * WARPS or shape.split_len.bit_count() != 1
        ):
            return f"split_len {shape.split_len} is no power of 2 from {TILE_TOKENS * WARPS} on"
        return ""

    return refuses


def tensor_core_entry(
    head_dim: int,
    suffix: str,
    row_tile: int,
    ctas_per_sm: int,
    operation: str = "paged_decode_attention_int8",
    *,
    element_bytes: int = 1,
) -> DecodeEntry:
    """The entry `operation`_d`head_dim``suffix`: row_tile query rows at once, ctas_per_sm CTAs.

    element_bytes: of the cache; k_channel_factors are served where it is 1, with a row tile of 8
    """
    factors = element_bytes == 1 and row_tile == 8
    return DecodeEntry(
        f"{operation}_d{head_dim}{suffix}",
        _refusal(head_dim, row_tile, suffix != "_any_block", factors),
        _planner(head_dim, row_tile, ctas_per_sm, element_bytes),
    )


TENSOR_CORE: tuple[DecodeEntry, ...] = (
    # head_dim, suffix, query rows of a tile, CTAs an SM: as the .cu of each head_dim says
    tensor_core_entry(32, "", 8, 2),
    tensor_core_entry(32, "_any_block", 8, 2),
    tensor_core_entry(64, "_rows16", 16, 1),
    tensor_core_entry(64, "", 8, 2),
    tensor_core_entry(64, "_any_block", 8, 1),
    tensor_core_entry(80, "", 8, 2),
    tensor_core_entry(80, "_any_block", 8, 2),
    tensor_core_entry(96, "", 8, 2),
    tensor_core_entry(96, "_any_block", 8, 2),
    tensor_core_entry(128, "_rows16", 16, 1),
    tensor_core_entry(128, "", 8, 2),
    tensor_core_entry(128, "_any_block", 8, 1),
    tensor_core_entry(192, "", 8, 1),
    tensor_core_entry(192, "_any_block", 8, 1),
    tensor_core_entry(256, "", 8, 1),
    tensor_core_entry(256, "_any_block", 8, 1),
)
