"""Copies of whole blocks, codes and scales of K and V together."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

PoolArrays: TypeAlias = tuple[
    npt.NDArray[np.int8], npt.NDArray[np.int8], npt.NDArray[Any], npt.NDArray[Any]
]
"""k_pool, v_pool [num_blocks, block_size, num_kv_heads, head_dim]; k_scales, v_scales."""


def copy_blocks(pools: PoolArrays, block_pairs: npt.NDArray[np.int32]) -> None:
    """Copy blocks within pools, in place.

    block_pairs: int32 [num_pairs, 2], (from, to); a pair with a block outside copies nothing
    """
    swap_blocks(pools, pools, block_pairs)


def swap_blocks(src: PoolArrays, dst: PoolArrays, block_pairs: npt.NDArray[np.int32]) -> None:
    """Copy blocks of `src` to blocks of `dst`, in place.

    block_pairs: int32 [num_pairs, 2], (from, to); a pair with a block outside copies nothing
    """
    size = (len(src[0]), len(dst[0]))
    inside = ((block_pairs >= 0) & (block_pairs < size)).all(axis=1)
    from_block, to_block = block_pairs[inside].T
    for from_array, to_array in zip(src, dst, strict=True):
        to_array[to_block] = from_array[from_block]
