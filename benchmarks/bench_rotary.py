"""int8_kv_cache_append_rotary against the append alone and a copy of as many bytes, in one run.

    python -m benchmarks.bench_rotary [--json FILE]

Method. As bench_append: 8 KV heads x head_dim 128, fp16, captured graphs of many calls on memory of
their own, here with 32 query heads rotated in place by the same launch. Bytes moved are K, V, q
twice, and what is stored; `share` is the copy's time over ours.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import numpy as np

from benchmarks.bench_append import (
    HEAD_DIM,
    NUM_KV_HEADS,
    PASS_TOKENS,
    ROUNDS,
    Append,
    bytes_moved,
)
from benchmarks.ceilings import copy_kernel, launch_copy
from benchmarks.machine import in_words, json_parser, report_rows
from benchmarks.replay import Repeated, replay
from pyferrum_kv import CudaContext
from pyferrum_kv.int8_kv import int8_kv_cache_append_rotary

NUM_Q_HEADS, MAX_POSITION = 32, 8192
NUM_TOKENS = (1, 64, 256, 1024, 4096, 16384)
MAX_CALLS = 256
STYLES = {"half-split": False, "interleaved": True}


def main() -> int:
    args = json_parser(__doc__).parse_args()
    return report_rows(measure, print_table, rounds=ROUNDS, file=args.json)


def print_table(report: dict[str, Any]) -> None:
    rows = report["rows"]
    print(in_words(report["machine"]))
    print("".join(f"{name:>14}" for name in ("tokens", *rows[0]["us"], "share")))
    for row in rows:
        share = 100 * row["us"]["copy"] / row["us"]["half-split"]
        print(f"{row['num_tokens']:>14}", end="")
        print("".join(f"{us:>14.2f}" for us in row["us"].values()) + f"{share:>13.0f}%")


class Rotary(Append):
    """Call number i on rows i * num_tokens onwards, q in place."""

    def __init__(self, ctx: CudaContext) -> None:
        super().__init__(ctx.new_stream())
        rng = np.random.default_rng(1)
        self.q = self.stream.alloc_zeros(PASS_TOKENS * NUM_Q_HEADS * HEAD_DIM, np.float16)
        positions = rng.integers(0, MAX_POSITION, PASS_TOKENS, dtype=np.int32)
        self.positions = self.stream.clone_htod(positions)
        table = rng.uniform(-1, 1, MAX_POSITION * HEAD_DIM).astype(np.float32)
        self.cos_sin = self.stream.clone_htod(table)

    def rotate(self, index: int, num_tokens: int, interleaved: bool) -> None:
        first, last = index * num_tokens, (index + 1) * num_tokens
        row, q_row = NUM_KV_HEADS * HEAD_DIM, NUM_Q_HEADS * HEAD_DIM
        int8_kv_cache_append_rotary(
            self.stream,
            self.k[first * row : last * row],
            self.v[first * row : last * row],
            self.pools,
            self.slot_mapping[first:last],
            self.positions[first:last],
            self.cos_sin,
            q=self.q[first * q_row : last * q_row],
            num_q_heads=NUM_Q_HEADS,
            interleaved=interleaved,
        )


def measure(ctx: CudaContext) -> list[dict[str, Any]]:
    rotary = Rotary(ctx)
    stream, copy, rows = rotary.stream, copy_kernel(ctx), []
    for num_tokens in NUM_TOKENS:
        calls = min(PASS_TOKENS // num_tokens, MAX_CALLS)
        moved = bytes_moved(num_tokens) + num_tokens * (4 * NUM_Q_HEADS * HEAD_DIM + 4)
        half = -(-moved // 32) * 16
        src, dst = (stream.alloc_zeros(calls * half, np.uint8) for _ in range(2))

        def copied(i: int, half: int = half, src: Any = src, dst: Any = dst) -> None:
            view = slice(i * half, (i + 1) * half)
            launch_copy(stream, copy, src[view], dst[view])

        subjects = {
            style: Repeated.capture(
                stream, lambda i, n=num_tokens, s=flag: rotary.rotate(i, n, s), calls
            )
            for style, flag in STYLES.items()
        }
        subjects["append alone"] = Repeated.capture(
            stream, lambda i, n=num_tokens: rotary(i, n), calls
        )
        subjects["copy"] = Repeated.capture(stream, copied, calls)
        times = replay(stream, subjects, ROUNDS)
        us = {name: statistics.median(figures) for name, figures in times.items()}
        rows.append({"num_tokens": num_tokens, "bytes_moved": moved, "us": us})
        for subject in subjects.values():
            subject.graph.close()
        src.close()
        dst.close()
    return rows


if __name__ == "__main__":
    sys.exit(main())
