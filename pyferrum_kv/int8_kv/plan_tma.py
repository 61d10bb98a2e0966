"""The plans of paged_decode_attention_int8_tma_*: Hopper's bulk copies, one CTA an SM.

The grid is (workers, head groups, row tiles), and worker w takes the w-th equal share of the batch,
as in plan_tensor_core.py. Copies of less than BOX_BYTES are limited by their number, so a CTA takes
as many KV heads as that needs, and no more: fewer heads leave more workers and smaller merges.

Left to the entries of plan_tensor_core.py are short sequences; batches that workers cut unevenly,
unless each holds many and those entries would cut them too; sequences cut into many parts, since a
CTA that owns its SM hides the end of none; and what is over before the ring pays, less than
LEAST_SM_TOKENS an SM. head_dim 192 and 256 are read as fast by 8 warps that load to registers.

132 SMs, 8 KV heads, 4 query heads to each, head_dim 128:

    batch  32 of 4096     2 heads  4 groups  32 workers, a sequence each
    batch 256 of 8192     2 heads  4 groups  33 workers, eight sequences to each
"""

from __future__ import annotations

from collections.abc import Callable

from pyferrum_kv.int8_kv.plan import STATE_PADDING, Budget, DecodeEntry, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_shares import MAX_HEADS, Shares, heads_and_workers
from pyferrum_kv.int8_kv.plan_tensor_core import refusal_of_shape

TILE_TOKENS = 16
PRODUCERS = 4
BOX_BYTES = 256 * TILE_TOKENS
"""Of a slab's K or V."""
MANY_SEQUENCES = 3
"""A worker that holds so many loses little at its two ends, which cut one; still more than others
that cut none."""
LEAST_SEQUENCE = 2048
MAX_PARTS = 4
"""Of a sequence."""
LEAST_SM_TOKENS = 3_800
"""Times KV heads, of tiles of 8 query rows; half as many of 16, which take as long."""
CTAS_AN_SM = {8: 2, 16: 1}
"""Of plan_tensor_core.py's entries for the same head_dims, by the rows of a tile."""
WITH_ROWS16 = (64, 128)
"""Where plan_tensor_core.py has tiles of 16 rows, for groups that would take two of 8."""
SHARED_BYTES = 229_376
"""Of the 227 KiB that a CTA may have, less static shared memory."""
MAX_SLOTS = 64  # as in kernels/decode_ring.cuh
ALIGNMENT = 1024  # of the codes in shared memory, for their swizzle
MAX_SCALE_BYTES = 4096
"""Scales of K of a slab: those of all KV heads."""


def chunk_bytes(head_dim: int) -> tuple[int, int]:
    """Bytes of a row of a box, and of its swizzle: 0 where rows spread over the banks unaided."""
    swizzle = 128 if head_dim % 128 == 0 else 64 if head_dim % 64 == 0 else 0
    return swizzle or head_dim, swizzle


def box_heads(head_dim: int) -> int:
    """KV heads of a box, and of a CTA: the least power of two that makes BOX_BYTES of it."""
    wanted = -(-BOX_BYTES // (TILE_TOKENS * head_dim))
    return 1 << (wanted - 1).bit_length()


def _unfit(shape: DecodeShape, num_sms: int, row_tile: int, row_tiles: int, workers: int) -> str:
    batch_size = max(shape.batch_size, 1)
    if shape.split_len:
        return "a deterministic decode takes the same entry whatever the batch is"
    if row_tile == 8 < shape.num_rows and shape.head_dim in WITH_ROWS16:
        return f"{shape.num_rows} query rows a KV head would read K and V more than once"
    if workers % batch_size and batch_size % workers:
        places = num_sms * CTAS_AN_SM[row_tile]
        _, others = heads_and_workers(shape, row_tiles, places, 1, MAX_HEADS)
        if batch_size < MANY_SEQUENCES * workers or others % batch_size == 0:
            return f"{workers} workers would cut {batch_size} sequences unevenly"
    if workers > MAX_PARTS * batch_size:
        return f"{workers} workers would merge {workers // batch_size} parts of a sequence"
    if shape.max_visible < LEAST_SEQUENCE:
        return f"sequences of at most {shape.max_visible} tokens end before the ring pays"
    tokens = batch_size * shape.max_visible * shape.num_kv_heads * row_tile // 8
    tokens //= max(num_sms, 1)
    if tokens < LEAST_SM_TOKENS:
        return f"{tokens} tokens times heads an SM; wanted {LEAST_SM_TOKENS}"
    return ""


def _planner(
    consumers: int, row_tile: int
) -> Callable[[str, DecodeShape, Budget, int], DecodePlan]:
    def plan(entry: str, shape: DecodeShape, budget: Budget, num_splits: int) -> DecodePlan:
        row_tiles = -(-shape.num_rows // row_tile)
        heads = box_heads(shape.head_dim)
        shares = Shares.of(
            shape,
            row_tiles,
            budget.num_sms,
            (heads, heads),
            lambda _: TILE_TOKENS,
            num_splits,
        )
        heads, workers = shares.heads, shares.workers
        exchange = 4 * consumers * min(shape.num_rows, row_tile) * (shape.head_dim + STATE_PADDING)
        slab = 2 * TILE_TOKENS * (heads * shape.head_dim + 2 * shape.num_kv_heads)
        stripes = consumers // heads
        depth = min((SHARED_BYTES - ALIGNMENT - exchange) // slab, MAX_SLOTS) // stripes
        return DecodePlan(
            entry=entry,
            grid_dim=(workers, shares.head_groups, row_tiles),
            block_dim=(32 * (consumers + PRODUCERS), 1, 1),
            shared_mem_bytes=ALIGNMENT + depth * stripes * slab + exchange,
            num_splits=shares.num_splits,
            split_len=shape.split_len,
            workspace_floats=shares.workspace_floats,
            num_counters=shares.num_counters,
            programmatic=True,
            reason=f"tensor cores fed by bulk copies, {heads} KV heads a CTA, {workers} workers for"
            f" {shape.batch_size} sequences",
            unfit=_unfit(shape, budget.num_sms, row_tile, row_tiles, workers),
            box_heads=heads,
            ring_depth=depth,
        )

    return plan


def _refusal(head_dim: int, row_tile: int) -> Callable[[DecodeShape], str]:
    def refuses(shape: DecodeShape) -> str:
        why = refusal_of_shape(shape, head_dim, row_tile)
        if why:
            return why
        if shape.scale_alignment % 16:
            return "the scales must be 16-byte aligned, the stride of a block included"
        if shape.has_k_channel_factors:
            return "q times k_channel_factors does not fit fp16 closely enough for lse"
        if shape.split_len and (shape.split_len < TILE_TOKENS or shape.split_len.bit_count() != 1):
            return f"split_len {shape.split_len} is no power of 2 from {TILE_TOKENS} on"
        if 2 * TILE_TOKENS * shape.num_kv_heads > MAX_SCALE_BYTES:
            return f"{shape.num_kv_heads} KV heads have scales of more than {MAX_SCALE_BYTES} bytes"
        return ""

    return refuses


def _entry(head_dim: int, suffix: str, row_tile: int, consumers: int) -> DecodeEntry:
    return DecodeEntry(
        f"paged_decode_attention_int8_tma_d{head_dim}{suffix}",
        _refusal(head_dim, row_tile),
        _planner(consumers, row_tile),
    )


TMA: tuple[DecodeEntry, ...] = (
    _entry(128, "_rows16", 16, 8),
    _entry(128, "", 8, 12),
    _entry(64, "", 8, 12),
    _entry(80, "", 8, 12),
    _entry(96, "", 8, 12),
)
"""head_dim, suffix, query rows of a tile, consumer warps: as the .cu of each says."""
