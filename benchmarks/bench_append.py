"""int8_kv_cache_append against copies of as many bytes, on one GPU in one run.

    python -m benchmarks.bench_append [--json FILE]

Method. num_tokens x 8 KV heads x head_dim 128, fp16 in, blocks of 16. An append reads fp16 K and V
and slots, and writes codes and scales; a copy of half as many bytes reads and writes as many in
sum. Each subject is a captured graph of many calls, each call on memory of its own, so that a
replay passes over more than the L2 holds. Device time a call is the replay's over its calls, the
median of the rounds.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import numpy as np

from benchmarks.ceilings import copy_kernel, launch_copy
from benchmarks.machine import in_words, json_parser, report_rows
from benchmarks.replay import Repeated, replay
from pyferrum_kv import CudaContext, CudaStream
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, int8_kv_cache_append

NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 8, 128, 16
NUM_TOKENS = (64, 256, 1024, 4096, 16384, 65536)
PASS_TOKENS, MAX_CALLS, ROUNDS = 131072, 512, 15
APPEND, KERNEL, MEMCPY = "int8_kv_cache_append", "copy kernel", "cuMemcpyDtoDAsync"


def main() -> int:
    args = json_parser(__doc__).parse_args()
    return report_rows(measure, print_table, rounds=ROUNDS, file=args.json)


def bytes_moved(num_tokens: int) -> int:
    """Bytes that an append must read and write: fp16 rows and a slot in, codes and scales out."""
    rows = 2 * num_tokens * NUM_KV_HEADS
    return rows * 2 * HEAD_DIM + 4 * num_tokens + rows * (HEAD_DIM + 2)


def measure(ctx: CudaContext) -> list[dict[str, Any]]:
    stream = ctx.new_stream()
    append = Append(stream)
    copy = copy_kernel(ctx)
    half_of_pass = PASS_TOKENS // NUM_TOKENS[0] * copy_bytes(NUM_TOKENS[0])
    src = stream.alloc_zeros(half_of_pass, np.uint8)
    dst = stream.alloc_zeros(half_of_pass, np.uint8)
    rows = []
    for num_tokens in NUM_TOKENS:
        calls = min(PASS_TOKENS // num_tokens, MAX_CALLS)
        half = copy_bytes(num_tokens)

        def view(index: int, half: int = half) -> slice:
            return slice(index * half, (index + 1) * half)

        subjects = {
            APPEND: Repeated.capture(stream, lambda i, n=num_tokens: append(i, n), calls),
            KERNEL: Repeated.capture(
                stream, lambda i: launch_copy(stream, copy, src[view(i)], dst[view(i)]), calls
            ),
            MEMCPY: Repeated.capture(
                stream, lambda i: stream.memcpy_dtod(src[view(i)], dst[view(i)]), calls
            ),
        }
        times = replay(stream, subjects, ROUNDS)
        us = {name: statistics.median(figures) for name, figures in times.items()}
        spread = {name: (min(figures), max(figures)) for name, figures in times.items()}
        moved = bytes_moved(num_tokens)
        rows.append(
            {
                "num_tokens": num_tokens,
                "bytes_moved": moved,
                "calls_a_replay": calls,
                "us": us,
                "us_spread": spread,
                "gb_per_s": {name: moved / figure / 1e3 for name, figure in us.items()},
            }
        )
        for subject in subjects.values():
            subject.graph.close()
    return rows


def copy_bytes(num_tokens: int) -> int:
    """Half of what an append moves, rounded up to sixteen."""
    return -(-bytes_moved(num_tokens) // 32) * 16


class Append:
    """Call number i on rows i * num_tokens onwards, into slots of a permuted pool."""

    def __init__(self, stream: CudaStream) -> None:
        self.stream = stream
        layout = KvLayout(PASS_TOKENS // BLOCK_SIZE, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM)
        self.pools = Int8KvPools.allocate(stream, layout)
        rng = np.random.default_rng(0)
        row = NUM_KV_HEADS * HEAD_DIM
        some = rng.standard_normal(4096 * row, np.float32).astype(np.float16)
        self.k = stream.clone_htod(np.tile(some, PASS_TOKENS // 4096))
        self.v = stream.clone_htod(np.tile(some[::-1], PASS_TOKENS // 4096))
        blocks = rng.permutation(layout.num_blocks).astype(np.int32)
        slots = (blocks[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE, dtype=np.int32)).ravel()
        self.slot_mapping = stream.clone_htod(slots)

    def __call__(self, index: int, num_tokens: int) -> None:
        row = NUM_KV_HEADS * HEAD_DIM
        first, last = index * num_tokens, (index + 1) * num_tokens
        k, v = self.k[first * row : last * row], self.v[first * row : last * row]
        int8_kv_cache_append(self.stream, k, v, self.pools, self.slot_mapping[first:last])


def print_table(report: dict[str, Any]) -> None:
    print(in_words(report["machine"]))
    print(f"{NUM_KV_HEADS} KV heads, head_dim {HEAD_DIM}; median of {report['rounds']} replays\n")
    print(f"{'':>8}{APPEND:>24}{KERNEL:>16}{MEMCPY:>20}{'of the faster':>16}")
    print(f"{'tokens':>8}{'us':>12}{'GB/s':>12}{'GB/s':>16}{'GB/s':>20}{'copy':>16}")
    for row in report["rows"]:
        rate = row["gb_per_s"]
        share = rate[APPEND] / max(rate[KERNEL], rate[MEMCPY])
        print(
            f"{row['num_tokens']:>8}{row['us'][APPEND]:>12.2f}{rate[APPEND]:>12.0f}"
            f"{rate[KERNEL]:>16.0f}{rate[MEMCPY]:>20.0f}{100 * share:>15.0f}%"
        )


if __name__ == "__main__":
    sys.exit(main())
