"""The plans of paged_decode_attention_int8_cluster_*: few sequences, each cut over a cluster.

Where batch_size * num_kv_heads is far below the number of SMs, a sequence must be cut, and for a
short one the merge of its parts through global memory takes longer than reading it. The CTAs of a
cluster merge in shared memory. Every sequence is cut into as many parts as a cluster has CTAs,
however long it is: fit for one sequence, and for several as long as none takes long.

132 SMs, 8 KV heads and 4 query heads to each:

    batch 1   clusters of 16, 128 CTAs, up to 12288 tokens
    batch 2   clusters of 8, 128 CTAs, where no sequence passes 4096 tokens

Longer ones are left to the plans that cut the whole batch evenly over all SMs.
"""

from __future__ import annotations

from collections.abc import Callable

from pyferrum_kv.int8_kv.plan import STATE_PADDING, Budget, DecodeEntry, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_tensor_core import PAIRED_ROWS, WARPS, refusal_of_shape

STEP_TOKENS = 128
ROWS = 8
CTAS_AN_SM = {64: 2, 128: 2, 256: 1}  # as the .cu of each head_dim says
MAX_CTA_TOKENS, MAX_CTA_TOKENS_OF_SEVERAL = 768, 512
"""That a CTA may have to fold: of the only sequence, and of the longest of several."""
MAX_GRID_Z = 65535


def cluster_ctas(shape: DecodeShape, budget: Budget) -> int:
    """CTAs of a cluster: a power of two that leaves room for twice as many, each with a step.

    A cluster runs inside one group of SMs, and these are not of one size: grids that would fill the
    device run in two waves (seen on an H100 with head_dim 256, one CTA an SM: 8.6 to 14.7 us).
    """
    places = budget.num_sms * CTAS_AN_SM[shape.head_dim] // 2
    clusters = max(shape.batch_size * shape.num_kv_heads * _row_tiles(shape), 1)
    steps = -(-shape.max_visible // STEP_TOKENS)
    most = min(budget.max_cluster, places // clusters, steps)
    return 1 << (most.bit_length() - 1) if most > 1 else 1


def _row_tiles(shape: DecodeShape) -> int:
    return -(-shape.num_rows // (PAIRED_ROWS if shape.has_k_channel_factors else ROWS))


def _refusal(head_dim: int) -> Callable[[DecodeShape], str]:
    def refuses(shape: DecodeShape) -> str:
        why = refusal_of_shape(shape, head_dim)
        if why:
            return why
        if shape.num_rows > ROWS:
            return f"{shape.num_rows} query rows a KV head would read K and V more than once"
        if shape.split_len:
            return "a deterministic cut may not depend on the batch"
        if shape.batch_size * _row_tiles(shape) > MAX_GRID_Z:
            return f"batch_size * row tiles pass {MAX_GRID_Z}"
        return ""

    return refuses


def _planner(head_dim: int) -> Callable[[str, DecodeShape, Budget, int], DecodePlan]:
    def plan(entry: str, shape: DecodeShape, budget: Budget, num_splits: int) -> DecodePlan:
        ctas = min(num_splits, budget.max_cluster) or cluster_ctas(shape, budget)
        ctas = 1 << (ctas.bit_length() - 1)  # as kernels/decode_cluster.cuh shares the columns out
        rows = min(shape.num_rows, PAIRED_ROWS if shape.has_k_channel_factors else ROWS)
        tokens = -(-shape.max_visible // ctas)
        most = MAX_CTA_TOKENS if shape.batch_size <= 1 else MAX_CTA_TOKENS_OF_SEVERAL
        few = ctas > 1 and tokens <= most
        return DecodePlan(
            entry=entry,
            grid_dim=(ctas, shape.num_kv_heads, max(shape.batch_size * _row_tiles(shape), 1)),
            block_dim=(32 * WARPS, 1, 1),
            shared_mem_bytes=4 * rows * (WARPS * (head_dim + STATE_PADDING) + head_dim * 3 // 2),
            num_splits=ctas,
            split_len=0,
            workspace_floats=0,
            num_counters=0,
            programmatic=True,
            cluster_dim=(ctas, 1, 1),
            reason=f"tensor cores, each sequence over a cluster of {ctas} CTAs",
            unfit=""
            if few
            else f"{ctas} CTAs a sequence, {tokens} tokens each, for one or few only",
        )

    return plan


CLUSTER: tuple[DecodeEntry, ...] = tuple(
    DecodeEntry(
        f"paged_decode_attention_int8_cluster_d{head_dim}", _refusal(head_dim), _planner(head_dim)
    )
    for head_dim in CTAS_AN_SM
)
