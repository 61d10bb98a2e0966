"""What the mutants of the kill matrix are launched on: sound inputs, and bad ones by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from helpers.kv_cache import HostCache, make_cache

from pyferrum_kv import CudaFunction, CudaStream, LaunchConfig
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    int8_kv_cache_append,
    launch_decode,
    paged_decode_attention_int8,
)
from pyferrum_kv.int8_kv.explain import explain
from pyferrum_kv.int8_kv.plan import DecodeShape

KV_LENS = [300, 37, 90]  # no multiples of a tile; several turns of each loop, several pieces a CTA
APPEND = "int8_kv_cache_append"
NUM_TOKENS = 37


def broadcast(stream: CudaStream, function: CudaFunction, lanes: int) -> bytes:
    """All 32 lanes take part, or fewer."""
    out = stream.alloc_zeros(32, np.uint32)
    stream.launch_builder(function).arg(out).arg(lanes).launch(LaunchConfig(1, 32))
    return stream.clone_dtoh(out).tobytes()


def cache_of(shape: DecodeShape) -> HostCache:
    rng = np.random.default_rng(7)
    return make_cache(
        rng,
        KV_LENS,
        block_size=shape.block_size,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
    )


def decode(
    stream: CudaStream, entry: str, shape: DecodeShape, pools: Int8KvPools | None = None
) -> bytes:
    """Sequences cut in pieces, so that the merge is part of it."""
    cache = cache_of(shape)
    rng = np.random.default_rng(8)
    size = (shape.batch_size, shape.num_q_heads, shape.head_dim)
    q = stream.clone_htod(rng.standard_normal(size).astype(np.float16).ravel())
    table, kv_lens = (stream.clone_htod(a.ravel()) for a in (cache.block_table, cache.kv_lens))
    out = stream.alloc_zeros(len(q), np.float16)
    paged_decode_attention_int8(
        stream,
        q,
        pools or cache.to_device(stream),
        table,
        kv_lens,
        out,
        num_q_heads=shape.num_q_heads,
        max_kv_len=shape.max_kv_len,
        entry=entry,
        num_splits=2 if entry == "paged_decode_attention_int8" else 0,  # others cut by CTAs
    )
    return stream.clone_dtoh(out).tobytes()


def short_shared_memory(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """Half of the dynamic shared memory that the kernel was planned with."""

    def halved(*arguments: Any, **options: Any) -> Any:
        planned = explain(*arguments, **options)
        return replace(planned, shared_mem_bytes=planned.shared_mem_bytes // 2)

    with patch.object(launch_decode, "explain", halved):
        return decode(stream, entry, shape)


def bad_table_entry(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """The first block of the first sequence lies far outside the pool."""
    cache = cache_of(shape)

    def spoiled(_: DecodeShape) -> HostCache:
        cache.block_table[0, 0] = 100_000
        return cache

    with patch(f"{__name__}.cache_of", spoiled):
        return decode(stream, entry, shape)


def unwritten_block(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """Pools that were allocated and never written."""
    layout = cache_of(shape).layout
    num_scales = layout.num_blocks * layout.block_size * layout.num_kv_heads
    codes = [stream.alloc(num_scales * layout.head_dim, np.int8) for _ in "kv"]
    scales = [stream.alloc(num_scales, np.float16) for _ in "kv"]
    return decode(stream, entry, shape, Int8KvPools(layout, *codes, *scales))


BAD_INPUTS: dict[str, Callable[[CudaStream, str, DecodeShape], bytes]] = {
    "short shared memory": short_shared_memory,
    "bad table entry": bad_table_entry,
    "unwritten block": unwritten_block,
}


def append(
    stream: CudaStream, entry: str, shape: DecodeShape, *, slot: int = 0, unwritten: bool = False
) -> bytes:
    """Rows to slots in reverse, `slot` the first of them; K left `unwritten` or not."""
    layout = replace(cache_of(shape).layout, num_blocks=4)
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((NUM_TOKENS, shape.num_kv_heads, shape.head_dim))
    v = stream.clone_htod(rows.astype(np.float16).ravel())
    k = stream.alloc(len(v), np.float16) if unwritten else v
    slots = np.arange(NUM_TOKENS, dtype=np.int32)[::-1].copy()
    slots[0] = slot or slots[0]
    pools = Int8KvPools.allocate(stream, layout)
    int8_kv_cache_append(stream, k, v, pools, stream.clone_htod(slots))
    return b"".join(stream.clone_dtoh(memory).tobytes() for memory in pools.slices)


def bad_slot(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """The first row goes to a slot far outside the pool."""
    return append(stream, entry, shape, slot=100_000_000)


def unwritten_rows(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """K was allocated and never written."""
    return append(stream, entry, shape, unwritten=True)


APPEND_INPUTS: dict[str, Callable[[CudaStream, str, DecodeShape], bytes]] = {
    "none": append,
    "bad slot": bad_slot,
    "unwritten rows": unwritten_rows,
}
