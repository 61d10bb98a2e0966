"""paged_decode_attention_int8 against reading its bytes, on one GPU in one run.

    python -m benchmarks.bench_decode [SHAPE ...] [--peers] [--block-size N] [--json FILE]

Method. A call is one decode step of one layer. Each subject is a captured graph of many calls on
caches of their own, blocks in random order, so that a replay passes over more than the L2 holds.
Device time a call is the replay's over its calls, the median of the rounds. `limit` is a kernel
that only reads as many bytes, codes and scales, contiguously. With --peers and torch installed,
`sdpa` is torch's scaled_dot_product_attention over contiguous fp16 K and V of the same sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import in_words, machine, open_gpu
from benchmarks.read_ceiling import CTAS_AN_SM, launch_read, read_kernel
from benchmarks.replay import Repeated, replay
from pyferrum_kv import CudaContext, CudaStream
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, paged_decode_attention_int8

ROTATED_BYTES = 600_000_000
MAX_CALLS = 300

# num_q_heads, num_kv_heads, head_dim, kv_lens
SHAPES: dict[str, tuple[int, int, int, list[int]]] = {
    "g4_b1_1k": (32, 8, 128, [1024]),
    "g4_b1_8k": (32, 8, 128, [8192]),
    "g4_b1_32k": (32, 8, 128, [32768]),
    "g4_b1_128k": (32, 8, 128, [131072]),
    "g4_b16_4k": (32, 8, 128, [4096] * 16),
    "g4_b64_2k": (32, 8, 128, [2048] * 64),
    "g4_b128_1k": (32, 8, 128, [1024] * 128),
    "g4_b256_8k": (32, 8, 128, [8192] * 256),
    "mha_b16_4k": (32, 32, 128, [4096] * 16),
    "g8_b32_4k": (64, 8, 128, [4096] * 32),
    "g8_d64_b64_4k": (64, 8, 64, [4096] * 64),
    "g2_d256_b16_4k": (16, 8, 256, [4096] * 16),
    "g16_b32_4k": (32, 2, 128, [4096] * 32),
    "g3_b32_4k": (24, 8, 128, [4096] * 32),
    "g7_b32_4k": (28, 4, 128, [4096] * 32),
    "skew_128k": (32, 8, 128, [131072] + [1024] * 63),
    "skew_32k": (32, 8, 128, [32768] + [256] * 255),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time paged_decode_attention_int8.")
    parser.add_argument("shapes", nargs="*", choices=[[], *SHAPES], metavar="SHAPE")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    ctx = open_gpu()
    facts = machine(ctx)
    print(in_words(facts))
    peer = " sdpa fp16" if args.peers else ""
    print(f"{'shape':16s} {'limit us':>9s} {'ours us':>9s}  of limit{peer}", flush=True)
    results = {}
    for name in args.shapes or SHAPES:
        with ctx, ctx.new_stream() as stream:
            us = measure(ctx, stream, *SHAPES[name], args.block_size, args.rounds)
        if args.peers:
            us["sdpa"] = sdpa(*SHAPES[name], args.rounds)
        results[name] = us
        line = f"{name:16s} {us['limit']:9.1f} {us['ours']:9.1f} {us['limit'] / us['ours']:9.2f}"
        print(line + (f" {us['sdpa']:9.1f}" if us.get("sdpa") else ""), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "us": results}, indent=1))


def measure(
    ctx: CudaContext,
    stream: CudaStream,
    num_q_heads: int,
    num_kv_heads: int,
    head_dim: int,
    kv_lens: list[int],
    block_size: int,
    rounds: int,
) -> dict[str, float]:
    """Microseconds a call of `ours` and of `limit`."""
    rng = np.random.default_rng(0)
    num_bytes = 2 * sum(kv_lens) * num_kv_heads * (head_dim + 2) // 16 * 16
    calls = max(1, min(MAX_CALLS, -(-ROTATED_BYTES // num_bytes)))
    blocks = [-(-n // block_size) for n in kv_lens]
    layout = KvLayout(sum(blocks) * calls, block_size, num_kv_heads, head_dim)
    pools = Int8KvPools.allocate(stream, layout)
    fill(stream, rng, pools)
    order = rng.permutation(layout.num_blocks).astype(np.int32)
    tables = np.zeros((calls, len(kv_lens), max(blocks)), np.int32)
    taken = 0
    for table in tables:
        for row, count in zip(table, blocks, strict=True):
            row[:count] = order[taken : taken + count]
            taken += count
    on_device = [stream.clone_htod(table.ravel()) for table in tables]
    lens = stream.clone_htod(np.array(kv_lens, np.int32))
    rows = len(kv_lens) * num_q_heads * head_dim
    q = stream.clone_htod(rng.standard_normal(rows).astype(np.float16))
    out = stream.alloc_zeros(rows, np.float16)
    sink = stream.alloc_zeros(1, np.uint32)
    data = stream.alloc_zeros(num_bytes * calls, np.int8)
    read = read_kernel(ctx)
    num_sms = ctx.attribute("MULTIPROCESSOR_COUNT")

    def decode(call: int) -> None:
        paged_decode_attention_int8(
            stream,
            q,
            pools,
            on_device[call],
            lens,
            out,
            num_q_heads=num_q_heads,
            max_kv_len=max(kv_lens),
        )

    def limit(ctas_an_sm: int) -> Repeated:
        def one(call: int) -> None:
            part = data[call * num_bytes : (call + 1) * num_bytes]
            launch_read(stream, read, part, sink, ctas_an_sm * num_sms)

        return Repeated.capture(stream, one, calls)

    subjects = {"ours": Repeated.capture(stream, decode, calls)}
    subjects |= {f"limit {n}": limit(n) for n in CTAS_AN_SM}
    us = {n: statistics.median(t) for n, t in replay(stream, subjects, rounds).items()}
    for subject in subjects.values():
        subject.graph.close()
    for memory in (*on_device, lens, q, out, sink, data, *pool_slices(pools)):
        memory.close()
    return {"ours": us["ours"], "limit": min(us[f"limit {n}"] for n in CTAS_AN_SM)}


def pool_slices(pools: Int8KvPools) -> tuple[Any, ...]:
    return pools.k_pool, pools.v_pool, pools.k_scales, pools.v_scales


def fill(stream: CudaStream, rng: np.random.Generator, pools: Int8KvPools) -> None:
    """Random codes, never zeros: 16 MiB of them, over and over; scales of 0.02."""
    piece = stream.clone_htod(rng.integers(-127, 128, 1 << 24, dtype=np.int8))
    scale = stream.clone_htod(np.full(1 << 20, 0.02, np.float16))
    for memory, pattern in zip(pool_slices(pools), (piece, piece, scale, scale), strict=True):
        for at in range(0, len(memory), len(pattern)):
            count = min(len(pattern), len(memory) - at)
            stream.memcpy_dtod(pattern[:count], memory[at : at + count])
    stream.synchronize()
    piece.close()
    scale.close()


def sdpa(
    num_q_heads: int, num_kv_heads: int, head_dim: int, kv_lens: list[int], rounds: int
) -> float | None:
    """Time torch over contiguous fp16, or None without torch or equal lengths."""
    try:
        import torch
        from torch.nn.functional import scaled_dot_product_attention
    except ImportError:
        return None
    if len(set(kv_lens)) > 1:
        return None
    batch_size, kv_len = len(kv_lens), kv_lens[0]
    half = {"device": "cuda", "dtype": torch.float16}
    num_bytes = 4 * batch_size * num_kv_heads * kv_len * head_dim
    calls = max(1, min(MAX_CALLS, -(-ROTATED_BYTES // num_bytes)))
    q = torch.randn(batch_size, num_q_heads, 1, head_dim, **half)
    kv = torch.randn(calls, 2, batch_size, num_kv_heads, kv_len, head_dim, **half)

    def every_call() -> None:
        for k, v in kv:
            scaled_dot_product_attention(q, k, v, enable_gqa=num_q_heads > num_kv_heads)

    every_call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        every_call()
    us = []
    for _ in range(rounds + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        us.append(1e3 * start.elapsed_time(end) / calls)
    return statistics.median(us[1:])


if __name__ == "__main__":
    main()
