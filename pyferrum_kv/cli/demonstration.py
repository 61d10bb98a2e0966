"""The main job on random data, judged: append, read back, attend, compare, measure. Prints nothing.

One pool whose blocks lie in random order holds the longest sequence; the shorter ones are its
beginnings, so that one batched decode has all lengths in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv import reference
from pyferrum_kv.driver import CudaContext, CudaSlice, CudaStream, CudaView
from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    int8_kv_cache_append,
    paged_decode_attention_int8,
)

MAX_ABS_ERROR, MAX_RELATIVE_L2 = 1e-3, 5e-4  # the accuracy that decode promises, docs/int8.md
Array = npt.NDArray[Any]
_CHUNK = 8192  # tokens whose reference is computed at once: float64 takes memory


@dataclass(frozen=True)
class Shape:
    """What is attended over: heads, blocks, and the lengths of the batch."""

    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    kv_lens: tuple[int, ...]

    @property
    def layout(self) -> KvLayout:
        num_blocks = -(-max(self.kv_lens) // self.block_size)
        return KvLayout(num_blocks, self.block_size, self.num_kv_heads, self.head_dim)


GPU = Shape(32, 8, 128, 16, (1, 17, 4096, 131072))
VIRTUAL = Shape(8, 2, 128, 16, (1, 17, 257, 1024))  # a CPU runs every thread of every kernel


@dataclass(frozen=True)
class Appended:
    """What came of an append, held against the reference bit for bit."""

    num_tokens: int
    different_codes: int
    different_scales: int

    @property
    def holds(self) -> bool:
        return self.different_codes == 0 and self.different_scales == 0


@dataclass(frozen=True)
class Decoded:
    """What came of a decode, held against float64 attention over the dequantised cache."""

    kv_len: int
    max_abs_error: float
    relative_l2: float

    @property
    def holds(self) -> bool:
        return self.max_abs_error <= MAX_ABS_ERROR and self.relative_l2 <= MAX_RELATIVE_L2


@dataclass(frozen=True)
class Sequences:
    """What a decode of some sequences reads and writes, beside the pools."""

    q: CudaSlice | CudaView
    block_table: CudaSlice | CudaView
    kv_lens: CudaSlice | CudaView
    out: CudaSlice | CudaView

    def one(self, index: int) -> Sequences:
        """Borrow what belongs to one sequence."""
        count = len(self.kv_lens)

        def part(whole: CudaSlice | CudaView) -> CudaView:
            size = len(whole) // count
            return whole[index * size : (index + 1) * size]

        return Sequences(part(self.q), part(self.block_table), part(self.kv_lens), part(self.out))


class Demonstration:
    """The data of a shape on the host and on the device, and the steps over it."""

    def __init__(self, ctx: CudaContext, shape: Shape, seed: int = 0) -> None:
        self.shape, self.layout = shape, shape.layout
        self.stream: CudaStream = ctx.new_stream()
        rng = np.random.default_rng(seed)
        rows = (self.layout.num_slots, shape.num_kv_heads, shape.head_dim)
        self.k, self.v = _normal(rng, rows), _normal(rng, rows)
        batch = len(shape.kv_lens)
        queries = (batch, shape.num_q_heads, shape.head_dim)
        self.q = _normal(rng, queries)
        self.blocks = rng.permutation(self.layout.num_blocks).astype(np.int32)
        offsets = np.arange(shape.block_size, dtype=np.int32)
        slots = (self.blocks[:, None] * shape.block_size + offsets).ravel()

        to_device = self.stream.clone_htod
        self.pools = Int8KvPools.allocate(self.stream, self.layout)
        self.device_k, self.device_v = to_device(self.k), to_device(self.v)
        self.slot_mapping = to_device(slots)
        self.batch = Sequences(
            q=to_device(self.q),
            block_table=to_device(np.tile(self.blocks, (batch, 1))),
            kv_lens=to_device(np.array(shape.kv_lens, np.int32)),
            out=self.stream.alloc_zeros(self.q.size, np.float16),
        )
        self.longest = self.batch.one(int(np.argmax(shape.kv_lens)))

    def append(self) -> None:
        """Quantise all tokens into the pools."""
        int8_kv_cache_append(
            self.stream, self.device_k, self.device_v, self.pools, self.slot_mapping
        )

    def check_append(self) -> Appended:
        """Read the pools back and compare them with the reference, code by code and bit by bit."""
        codes = scales = 0
        for values, pool, pool_scales in (
            (self.k, self.pools.k_pool, self.pools.k_scales),
            (self.v, self.pools.v_pool, self.pools.v_scales),
        ):
            found_codes, found_scales = self._in_order(pool), self._in_order(pool_scales)
            for first in range(0, len(values), _CHUNK):
                rows = slice(first, first + _CHUNK)
                wanted_codes, wanted_scales = reference.quantize(values[rows])
                codes += int(np.count_nonzero(found_codes[rows] != wanted_codes))
                same = found_scales[rows].view(np.uint16) == wanted_scales.view(np.uint16)
                scales += int(np.count_nonzero(~same))
        return Appended(self.layout.num_slots, codes, scales)

    def _in_order(self, pool: DeviceMemory) -> Array:
        """Return a pool on the host in the order of the tokens: [num_slots, num_kv_heads, ...]."""
        shape = self.shape
        blocks = self.stream.clone_dtoh(pool).reshape(self.layout.num_blocks, -1)
        rows = blocks[self.blocks].reshape(self.layout.num_slots, shape.num_kv_heads, -1)
        return rows[..., 0] if pool.dtype == np.float16 else rows

    def decode(self) -> None:
        """Attend over every length of the batch in one call."""
        self._decode(self.batch)

    def decode_longest(self) -> None:
        """Attend over the longest sequence alone."""
        self._decode(self.longest)

    def _decode(self, sequences: Sequences) -> None:
        paged_decode_attention_int8(
            self.stream,
            sequences.q,
            self.pools,
            sequences.block_table,
            sequences.kv_lens,
            sequences.out,
            num_q_heads=self.shape.num_q_heads,
            max_kv_len=max(self.shape.kv_lens),
        )

    def check_decode(self) -> list[Decoded]:
        """Compare what decode left in `out` with float64 attention over the cache as it is."""
        found = self.stream.clone_dtoh(self.batch.out).reshape(self.q.shape).astype(np.float64)
        pools = self._pools_on_host()
        heads = [self._reference(kv_head, *pools) for kv_head in range(self.shape.num_kv_heads)]
        wanted = np.concatenate(heads, axis=1)
        error = found - wanted
        return [
            Decoded(
                kv_len,
                float(np.abs(error[b]).max()),
                float(np.linalg.norm(error[b]) / np.linalg.norm(wanted[b])),
            )
            for b, kv_len in enumerate(self.shape.kv_lens)
        ]

    def _reference(
        self, kv_head: int, k_codes: Array, v_codes: Array, k_scales: Array, v_scales: Array
    ) -> Array:
        """Return what the query heads of one KV head should be; one at a time saves memory."""
        shape = self.shape
        q_per_kv = shape.num_q_heads // shape.num_kv_heads
        head = slice(kv_head, kv_head + 1)
        out, _ = reference.paged_decode_attention_int8(
            self.q[:, kv_head * q_per_kv : (kv_head + 1) * q_per_kv],
            k_codes[:, :, head],
            v_codes[:, :, head],
            k_scales[:, :, head],
            v_scales[:, :, head],
            np.tile(self.blocks, (len(shape.kv_lens), 1)),
            np.array(shape.kv_lens, np.int32),
        )
        return out

    def _pools_on_host(self) -> tuple[Array, Array, Array, Array]:
        shape = self.shape
        scales = (self.layout.num_blocks, shape.block_size, shape.num_kv_heads)
        codes = (*scales, shape.head_dim)
        pools = self.pools
        return (
            self.stream.clone_dtoh(pools.k_pool).reshape(codes),
            self.stream.clone_dtoh(pools.v_pool).reshape(codes),
            self.stream.clone_dtoh(pools.k_scales).reshape(scales),
            self.stream.clone_dtoh(pools.v_scales).reshape(scales),
        )


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw from N(0,1), cut off below 4: from there fp16 alone rounds an output by up to 2e-3."""
    return np.clip(rng.standard_normal(shape, np.float32), -3.9, 3.9).astype(np.float16)
