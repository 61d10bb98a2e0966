"""A small paged INT8 KV cache with everything around it poisoned, on the host and on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyferrum_kv import CudaStream, bfloat16, from_bfloat16, reference, to_bfloat16
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout

GUARD = 64
"""Elements kept before and after an output, to see that nobody writes there."""


@dataclass
class HostCache:
    """Sequences in permuted blocks; all other slots hold garbage codes and NaN scales."""

    layout: KvLayout
    k_pool: np.ndarray
    v_pool: np.ndarray
    k_scales: np.ndarray
    v_scales: np.ndarray
    block_table: np.ndarray  # [batch_size, max_blocks_per_seq]; the unused tail names no block
    kv_lens: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.k_pool, self.v_pool, self.k_scales, self.v_scales

    def to_device(self, stream: CudaStream) -> Int8KvPools:
        return Int8KvPools(self.layout, *(stream.clone_htod(a.ravel()) for a in self.arrays))


def make_cache(
    rng: np.random.Generator,
    kv_lens: list[int],
    *,
    block_size: int = 16,
    num_kv_heads: int = 2,
    head_dim: int = 32,
    v_factor: float = 1.0,
    k: np.ndarray | None = None,
    spare_blocks: int = 2,
) -> HostCache:
    """Random tokens through the reference quantiser into blocks in random order."""
    blocks = sum(-(-n // block_size) for n in kv_lens) + spare_blocks
    layout = KvLayout(max(blocks, 1), block_size, num_kv_heads, head_dim)
    shape = (layout.num_blocks, block_size, num_kv_heads)
    pools = [rng.integers(-128, 128, (*shape, head_dim), dtype=np.int8) for _ in "kv"]
    scales = [np.full(shape, np.nan, np.float16) for _ in "kv"]
    table, slots_of = permuted_blocks(rng, layout, kv_lens)
    for n, slots in zip(kv_lens, slots_of, strict=True):
        tokens = rng.standard_normal((2, n, num_kv_heads, head_dim))
        tokens[1] *= v_factor
        if k is not None:
            tokens[0] = k[:n]
        reference.int8_kv_cache_append(*tokens, *pools, *scales, slots)
    return HostCache(layout, *pools, *scales, table, np.array(kv_lens, np.int32))


def permuted_blocks(
    rng: np.random.Generator, layout: KvLayout, kv_lens: list[int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The block table of sequences in random blocks, and each one's slots, token by token."""
    size = layout.block_size
    blocks = [-(-n // size) for n in kv_lens]
    order = rng.permutation(layout.num_blocks).astype(np.int32)
    table = np.full((len(kv_lens), max(blocks, default=0) + 1), 2**31 - 1, np.int32)
    slots, taken = [], 0
    for b, n in enumerate(kv_lens):
        table[b, : blocks[b]] = order[taken : taken + blocks[b]]
        taken += blocks[b]
        t = np.arange(n)
        slots.append(table[b, t // size] * size + t % size)
    return table, slots


def random_half(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """N(0, 1) in float16 or bfloat16."""
    values = rng.standard_normal(shape).astype(np.float32)
    return to_bfloat16(values) if dtype == "bfloat16" else values.astype(np.float16)


def widened(values: np.ndarray) -> np.ndarray:
    """float64, whichever half it was."""
    exact = from_bfloat16(values) if values.dtype == bfloat16 else values
    return exact.astype(np.float64)


class Guarded:
    """An output between two guards of a value that nobody writes by chance."""

    def __init__(self, stream: CudaStream, num_elements: int, dtype: Any) -> None:
        self._stream = stream
        total = num_elements + 2 * GUARD
        bits = np.full(total * np.dtype(dtype).itemsize, 0xA5, np.uint8).view(dtype)
        self._all = stream.clone_htod(bits)
        self.slice = self._all[GUARD : GUARD + num_elements]

    def read(self) -> np.ndarray:
        """What was written; the guards must be untouched."""
        host = self._stream.clone_dtoh(self._all)
        guards = np.concatenate([host[:GUARD], host[-GUARD:]])
        assert (guards.view(np.uint8) == 0xA5).all(), "written outside the output"
        return host[GUARD:-GUARD]


def assert_close(got: np.ndarray, expected: np.ndarray, dtype: str = "float16") -> None:
    """The accuracy that docs/int8.md promises: of each element, and relative L2 over all of them.

    An element may be off by the absolute bound, or by what rounding it to `dtype` costs.
    """
    got = widened(got).reshape(expected.shape)
    assert (np.isnan(got) == np.isnan(expected)).all()
    absolute, relative, half_ulp = (
        (1e-3, 5e-4, 2.0**-11) if dtype == "float16" else (8e-3, 4e-3, 2.0**-8)
    )
    finite = np.isfinite(expected)
    error = np.abs(got[finite] - expected[finite])
    allowed = np.maximum(absolute, 1.1 * half_ulp * np.abs(expected[finite]))
    assert (error <= allowed).all(), f"largest error {error.max()}"
    size = np.sqrt((expected[finite] ** 2).sum())
    assert np.sqrt((error**2).sum()) <= relative * size + 1e-12
