"""copy_blocks, swap_blocks and merge_attention_states against copies, on one GPU in one run.

    python -m benchmarks.bench_blocks [--json FILE]

Method. Blocks of 16 tokens x 8 KV heads x head_dim 128, 33 KiB of codes and scales. Pairs are
random. Device time a call is a captured graph's over its calls, the median of the rounds.
`copy` moves as many bytes within the device by a kernel, `one memcpy` as many from or to pinned
memory in one cuMemcpyAsync, `memcpy each` one for each of the four arrays of each pair. A merge
reads num_states x 8192 rows of 128 in fp16.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.ceilings import copy_kernel, launch_copy
from benchmarks.machine import in_words, json_parser, report_rows
from benchmarks.replay import Repeated, replay
from pyferrum_kv import CudaContext, CudaStream, CudaView
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    copy_blocks,
    merge_attention_states,
    swap_blocks,
)

SIZES = {"block_size": 16, "num_kv_heads": 8, "head_dim": 128}
DEVICE, HOST = KvLayout(16384, **SIZES), KvLayout(2048, **SIZES)
BLOCK_BYTES = DEVICE.total_bytes // DEVICE.num_blocks
NUM_PAIRS = (1, 8, 64, 512, 2048)
NUM_STATES = (2, 4, 8)
NUM_HEADS, HEAD_DIM, MERGE_TOKENS = 32, 128, 256
MAX_CALLS, MAX_EACH, ROUNDS = 64, 512, 9
Call = Callable[[int], object]


def main() -> int:
    args = json_parser(__doc__).parse_args()
    return report_rows(measure, print_table, rounds=ROUNDS, file=args.json)


def print_table(report: dict[str, Any]) -> None:
    rows = report["rows"]
    print(in_words(report["machine"]))
    for row in rows:
        rate = row["bytes_moved"] / row["us"] / 1e3
        print(f"{row['what']:<14}{row['size']:>6}  {row['how']:<14}{row['us']:>10.2f} us", end="")
        print(f"{rate:>9.1f} GB/s")


def measure(ctx: CudaContext) -> list[dict[str, Any]]:
    stream = ctx.new_stream()
    rows = []
    moves = Moves(ctx, stream)
    for num_pairs in NUM_PAIRS:
        for what in ("copy_blocks", "swap out", "swap in"):
            subjects = moves.subjects(what, num_pairs)
            moved = num_pairs * BLOCK_BYTES * (2 if what == "copy_blocks" else 1)
            rows += timed(stream, what, num_pairs, moved, subjects)
    for num_states in NUM_STATES:
        moved, subjects = merges(ctx, stream, num_states)
        rows += timed(stream, "merge", num_states, moved, subjects)
    return rows


def timed(
    stream: CudaStream, what: str, size: int, moved: int, subjects: dict[str, Repeated]
) -> list[dict[str, Any]]:
    times = replay(stream, subjects, ROUNDS)
    for subject in subjects.values():
        subject.graph.close()
    return [
        {"what": what, "size": size, "how": how, "bytes_moved": moved, "us": statistics.median(us)}
        for how, us in times.items()
    ]


class Moves:
    """Pools on both sides, random pairs of distinct blocks, and the copies to compare with."""

    def __init__(self, ctx: CudaContext, stream: CudaStream) -> None:
        self.stream, self.copy = stream, copy_kernel(ctx)
        self.device = Int8KvPools.allocate(stream, DEVICE)
        self.host = Int8KvPools.allocate_pinned(ctx, HOST)
        rng = np.random.default_rng(0)
        order = rng.permutation(DEVICE.num_blocks).astype(np.int32)
        on_host = np.tile(rng.permutation(HOST.num_blocks).astype(np.int32), 4)
        half = len(order) // 2
        self.pairs = {
            "copy_blocks": np.stack([order[:half], order[half:]], axis=1),
            "swap out": np.stack([order[:half], on_host], axis=1),
            "swap in": np.stack([on_host, order[:half]], axis=1),
        }
        self.on_device = {what: stream.clone_htod(a.ravel()) for what, a in self.pairs.items()}

    def subjects(self, what: str, num_pairs: int) -> dict[str, Repeated]:
        stream, device, host = self.stream, self.device, self.host
        src, dst = {
            "copy_blocks": (device, device),
            "swap out": (device, host),
            "swap in": (host, device),
        }[what]

        def part(i: int) -> slice:
            return slice(i * num_pairs, (i + 1) * num_pairs)

        def ours(i: int) -> None:
            pairs = self.on_device[what][2 * i * num_pairs : 2 * (i + 1) * num_pairs]
            if what == "copy_blocks":
                copy_blocks(stream, device, pairs)
            else:
                swap_blocks(stream, src, dst, pairs)

        def each(i: int) -> None:
            for from_block, to_block in self.pairs[what][part(i)].tolist():
                for a, b, stride in zip(src.slices, dst.slices, STRIDES, strict=True):
                    self._memcpy(
                        a[from_block * stride : (from_block + 1) * stride],
                        b[to_block * stride : (to_block + 1) * stride],
                    )

        codes = num_pairs * BLOCK_BYTES // 16 * 16

        def whole(i: int) -> None:
            first = i * codes % (HOST.num_codes - codes)
            self._memcpy(src.k_pool[first : first + codes], dst.k_pool[first : first + codes])

        def kernel(i: int) -> None:
            first = i * codes % (DEVICE.num_codes - codes) // 16 * 16
            view = slice(first, first + codes)
            launch_copy(stream, self.copy, device.k_pool[view], device.v_pool[view])

        calls = min(MAX_CALLS, len(self.pairs[what]) // num_pairs)
        if what != "copy_blocks" and num_pairs > 64:
            calls = min(calls, 4)
        subjects: dict[str, Call] = {"ours": ours}
        if what == "copy_blocks":
            subjects["copy"] = kernel
        elif codes < HOST.num_codes:
            subjects["one memcpy"] = whole
        made = {name: Repeated.capture(stream, call, calls) for name, call in subjects.items()}
        if num_pairs <= MAX_EACH:
            made["memcpy each"] = Repeated.capture(stream, each, min(calls, 4))
        return made

    def _memcpy(self, src: CudaView, dst: CudaView) -> None:
        call = self.stream.context.call
        call("cuMemcpyAsync", dst.device_ptr, src.device_ptr, src.num_bytes, self.stream.cu_stream)


STRIDES = (
    *(DEVICE.kv_block_stride, DEVICE.kv_block_stride),
    *(DEVICE.scale_block_stride, DEVICE.scale_block_stride),
)


def merges(
    ctx: CudaContext, stream: CudaStream, num_states: int
) -> tuple[int, dict[str, Repeated]]:
    """Calls on memory of their own, so that a replay passes over more than the L2 holds."""
    rows, calls = MERGE_TOKENS * NUM_HEADS, 48
    size = rows * HEAD_DIM
    partial = stream.alloc_zeros(calls * num_states * size, np.float16)
    lse = stream.alloc_zeros(calls * num_states * rows, np.float32)
    out = stream.alloc_zeros(calls * size, np.float16)
    moved = (num_states + 1) * size * 2 + num_states * rows * 4
    half = moved // 32 * 16
    src, dst = (stream.alloc_zeros(calls * half, np.uint8) for _ in range(2))
    copy = copy_kernel(ctx)

    def merge(i: int) -> None:
        merge_attention_states(
            stream,
            partial[i * num_states * size : (i + 1) * num_states * size],
            lse[i * num_states * rows : (i + 1) * num_states * rows],
            out[i * size : (i + 1) * size],
            num_states=num_states,
            num_q_heads=NUM_HEADS,
            head_dim=HEAD_DIM,
        )

    def copied(i: int) -> None:
        view = slice(i * half, (i + 1) * half)
        launch_copy(stream, copy, src[view], dst[view])

    subjects = {"ours": merge, "copy": copied}
    return moved, {name: Repeated.capture(stream, call, calls) for name, call in subjects.items()}


if __name__ == "__main__":
    sys.exit(main())
