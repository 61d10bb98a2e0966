"""The plans of paged_decode_attention_int8_tma_*: Hopper's bulk copies, one CTA an SM.

The grid is (workers, head groups, row tiles), and worker w takes the w-th equal share of the batch,
as in plan_tensor_core.py. Copies of less than BOX_BYTES are limited by their number, so a CTA takes
as many KV heads as that needs, and no more: fewer heads leave more workers and smaller merges.

A CTA owns its SM, so what it does at the ends of sequences is hidden by nobody: where a worker has
several pieces, its warps form two groups that take them in turn. Left to the entries of
plan_tensor_core.py are short sequences; batches that workers cut unevenly, unless each holds many;
and what is over before the ring pays, less than LEAST_SM_BYTES an SM, and far more for tiles that
leave fewer warps.

132 SMs, 8 KV heads, 4 query heads to each, head_dim 128:

    batch  32 of 4096     2 heads  4 groups  32 workers, a sequence each
    batch 256 of 8192     2 heads  4 groups  33 workers, eight sequences to each, groups of warps
"""

from __future__ import annotations

from collections.abc import Callable

from pyferrum_kv.int8_kv.plan import STATE_PADDING, Budget, DecodeEntry, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_shares import MAX_HEADS, Shares
from pyferrum_kv.int8_kv.plan_tensor_core import refusal_of_shape

TILE_TOKENS = 16
PRODUCERS = 2
BOX_BYTES = 256 * TILE_TOKENS
"""Of a slab's K or V."""
MANY_SEQUENCES = 4
"""A worker that holds so many loses little at its two ends, which cut one."""
LEAST_SEQUENCE = 2048
LEAST_SM_BYTES = 1_000_000
WITH_ROWS16 = (64, 128)
"""Where plan_tensor_core.py has tiles of 16 rows, for groups that would take two of 8."""
LEAST_SM_BYTES_WIDE = 16_000_000
"""Where 8 warps and not 12 fold: head_dim 256, and 16 rows at a time."""
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


def groups_of(workers: int, batch_size: int, stripes: int) -> int:
    """2 where a worker has several pieces, so that one group folds while the other finishes."""
    return 1 if workers % max(batch_size, 1) == 0 or stripes % 2 else 2


def _unfit(shape: DecodeShape, num_sms: int, consumers: int, row_tile: int, workers: int) -> str:
    batch_size = max(shape.batch_size, 1)
    if shape.split_len:
        return "a deterministic decode takes the same entry whatever the batch is"
    if row_tile == 8 < shape.num_rows and shape.head_dim in WITH_ROWS16:
        return f"{shape.num_rows} query rows a KV head would read K and V more than once"
    if workers % batch_size and batch_size % workers and batch_size < MANY_SEQUENCES * workers:
        return f"{workers} workers would cut {batch_size} sequences unevenly"
    if shape.max_visible < LEAST_SEQUENCE:
        return f"sequences of at most {shape.max_visible} tokens end before the ring pays"
    token_bytes = 2 * shape.num_kv_heads * (shape.head_dim + 2)
    sm_bytes = shape.batch_size * shape.max_visible * token_bytes // max(num_sms, 1)
    least = LEAST_SM_BYTES if consumers > 8 else LEAST_SM_BYTES_WIDE
    return f"{sm_bytes} bytes an SM; wanted {least}" if sm_bytes < least else ""


def _planner(
    consumers: int, row_tile: int
) -> Callable[[str, DecodeShape, Budget, int], DecodePlan]:
    def plan(entry: str, shape: DecodeShape, budget: Budget, num_splits: int) -> DecodePlan:
        row_tiles = -(-shape.num_rows // row_tile)
        heads = 1 << (BOX_BYTES // (TILE_TOKENS * shape.head_dim)).bit_length() - 1
        heads = min(max(heads, 2), MAX_HEADS)
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
            unfit=_unfit(shape, budget.num_sms, consumers, row_tile, workers),
            box_heads=heads,
            ring_depth=depth,
            groups=1 if shape.split_len else groups_of(workers, shape.batch_size, stripes),
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
    _entry(256, "", 8, 8),
)
"""head_dim, suffix, query rows of a tile, consumer warps: as the .cu of each says."""
