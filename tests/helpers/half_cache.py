"""A small paged cache of fp16 or bf16 with everything around it poisoned, and a decode over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers.decode import check, decode
from helpers.kv_cache import permuted_blocks, random_half

from pyferrum_kv import CudaStream
from pyferrum_kv.half_kv import HalfKvPools, paged_decode_attention
from pyferrum_kv.int8_kv import KvLayout


@dataclass
class HalfCache:
    """Sequences in permuted blocks; all other slots hold NaN."""

    layout: KvLayout
    k_pool: np.ndarray
    v_pool: np.ndarray
    block_table: np.ndarray  # [batch_size, max_blocks_per_seq]; the unused tail names no block
    kv_lens: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.k_pool, self.v_pool

    def to_device(self, stream: CudaStream) -> HalfKvPools:
        return HalfKvPools(self.layout, *(stream.clone_htod(a.ravel()) for a in self.arrays))


def make_half_cache(
    rng: np.random.Generator,
    kv_lens: list[int],
    dtype: str = "float16",
    *,
    block_size: int = 16,
    num_kv_heads: int = 2,
    head_dim: int = 32,
    spare_blocks: int = 0,
) -> HalfCache:
    """Random tokens in blocks in random order."""
    blocks = sum(-(-n // block_size) for n in kv_lens) + spare_blocks
    layout = KvLayout(max(blocks, 1), block_size, num_kv_heads, head_dim)
    shape = (layout.num_blocks, block_size, num_kv_heads, head_dim)
    pools = [random_half(rng, shape, dtype) for _ in "kv"]
    table, slots = permuted_blocks(rng, layout, kv_lens)
    unused = np.ones(layout.num_slots, bool)
    for used in slots:
        unused[used] = False
    for pool in pools:
        pool.view(np.uint16)[unused.reshape(shape[:2])] = 0x7FC0 if dtype == "bfloat16" else 0x7E00
    return HalfCache(layout, *pools, table, np.array(kv_lens, np.int32))


def decode_half(
    stream: CudaStream, cache: HalfCache, q: np.ndarray, *, entry: str = "", **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """out and lse from the device."""
    return decode(stream, cache, q, call=paged_decode_attention, entry=entry, **options)


def check_half(
    stream: CudaStream, cache: HalfCache, q: np.ndarray, *, entry: str = "", **options: Any
) -> None:
    """Decode on the device and in the reference, and compare out and lse."""
    check(stream, cache, q, call=paged_decode_attention, entry=entry, **options)
