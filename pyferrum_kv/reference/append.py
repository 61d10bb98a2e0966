"""New tokens into their slots of a paged KV cache, quantised or as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.reference.quantize import quantize


def int8_kv_cache_append(
    k: npt.NDArray[Any],
    v: npt.NDArray[Any],
    k_pool: npt.NDArray[np.int8],
    v_pool: npt.NDArray[np.int8],
    k_scales: npt.NDArray[np.float16],
    v_scales: npt.NDArray[np.float16],
    slot_mapping: npt.NDArray[np.int32],
) -> None:
    """Write the codes and scales of each token to its slot, in place.

    k, v:                fp16, bf16  [num_tokens, num_kv_heads, head_dim]
    k_pool, v_pool:      int8        [num_blocks, block_size, num_kv_heads, head_dim]
    k_scales, v_scales:  float16     [num_blocks, block_size, num_kv_heads]
    slot_mapping:        int32       [num_tokens]; a slot outside the pool writes nothing
    """
    num_blocks, block_size = k_pool.shape[:2]
    inside = (slot_mapping >= 0) & (slot_mapping < num_blocks * block_size)
    block, block_offset = np.divmod(slot_mapping[inside], block_size)
    k_pool[block, block_offset], k_scales[block, block_offset] = quantize(k[inside])
    v_pool[block, block_offset], v_scales[block, block_offset] = quantize(v[inside])


def kv_cache_append(
    k: npt.NDArray[Any],
    v: npt.NDArray[Any],
    k_pool: npt.NDArray[Any],
    v_pool: npt.NDArray[Any],
    slot_mapping: npt.NDArray[np.int32],
) -> None:
    """Write each token to its slot, in place.

    k, v:            fp16, bf16  [num_tokens, num_kv_heads, head_dim]
    k_pool, v_pool:  of k's type [num_blocks, block_size, num_kv_heads, head_dim]
    slot_mapping:    int32       [num_tokens]; a slot outside the pool writes nothing
    """
    num_blocks, block_size = k_pool.shape[:2]
    inside = (slot_mapping >= 0) & (slot_mapping < num_blocks * block_size)
    block, block_offset = np.divmod(slot_mapping[inside], block_size)
    k_pool[block, block_offset] = k[inside]
    v_pool[block, block_offset] = v[inside]
