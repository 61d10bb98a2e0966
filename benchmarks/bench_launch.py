"""What a launch costs the host: a C loop as the floor, ours, and what others offer, in one run.

    python -m benchmarks.bench_launch [--json FILE] [--check]

Method. A batch is 400 launches, back to back; the context is synchronised before and after, outside
the timed part, and 400 is well below the depth at which a launch waits for the device. Every
contender has one batch a round, in an order that changes from round to round. Reported are the
median over the rounds and the quartiles, in microseconds of host time a launch. launch_peers.py
says who launches what.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.launch_peers import PEERS, Launch, Subject, c_floor, ours_builder, ours_prepared
from benchmarks.machine import in_words, machine, open_gpu
from pyferrum_kv import CudaContext
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    launch_int8_kv_cache_append,
    launch_int8_paged_decode_attention,
)

LAUNCHES, ROUNDS = 400, 41
FLOOR = "C loop on cuLaunchKernel"
PREPARED, BUILDER = "ours: prepared launch", "ours: launch builder"
DECODE = "ours: launch_int8_paged_decode_attention"
APPEND = "ours: launch_int8_kv_cache_append"
CUPY = "CuPy RawKernel"
Batch = Callable[[int], float]  # launches -> host nanoseconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--check", action="store_true", help="exit 1 if a promise is not kept")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    args = parser.parse_args()

    ctx = open_gpu()
    with ctx:
        batches, absent = contenders(ctx)
        times = measure(ctx, batches, args.rounds)
    report: dict[str, Any] = {
        "machine": machine(ctx),
        "launches_a_batch": LAUNCHES,
        "rounds": args.rounds,
        "us": {name: summary(ns) for name, ns in times.items()},
        "absent": absent,
    }
    print_table(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return check(report) if args.check else 0


def contenders(ctx: CudaContext) -> tuple[dict[str, Batch], dict[str, str]]:
    """Return the batches to time, and the peers that are not here with the reason."""
    subject = Subject.on(ctx)
    batches: dict[str, Batch] = {
        FLOOR: c_floor(subject),
        PREPARED: back_to_back(ours_prepared(subject)),
        BUILDER: back_to_back(ours_builder(subject)),
        DECODE: back_to_back(decode_launcher(ctx)),
        APPEND: back_to_back(append_launcher(ctx)),
    }
    absent = {}
    for name, peer in PEERS.items():
        try:
            launch = peer(subject)
            launch()
            ctx.synchronize()
        except Exception as reason:  # another library's failure is a row of the table, not ours
            absent[name] = f"{type(reason).__name__}: {reason}".splitlines()[0]
        else:
            batches[name] = back_to_back(launch)
    return batches, absent


def decode_launcher(ctx: CudaContext) -> Launch:
    """ferrum-kernels' signature, all checks on: 16 tokens, 8 query heads, 2 KV heads."""
    stream = ctx.default_stream()
    layout = KvLayout(num_blocks=4, block_size=16, num_kv_heads=2, head_dim=128)
    pools = Int8KvPools.allocate(stream, layout)
    q = stream.alloc_zeros(8 * 128, np.float16)
    out = stream.alloc_zeros(8 * 128, np.float16)
    block_table = stream.alloc_zeros(1, np.int32)
    return lambda: launch_int8_paged_decode_attention(
        ctx, q, pools.k_pool, pools.v_pool, pools.k_scales, pools.v_scales, block_table, out,
        8, 2, 128, 16, 16, 128**-0.5,
    )  # fmt: skip


def append_launcher(ctx: CudaContext) -> Launch:
    """ferrum-kernels' signature, all checks on: one token, 2 KV heads."""
    stream = ctx.default_stream()
    layout = KvLayout(num_blocks=4, block_size=16, num_kv_heads=2, head_dim=128)
    pools = Int8KvPools.allocate(stream, layout)
    k = stream.alloc_zeros(2 * 128, np.float16)
    v = stream.alloc_zeros(2 * 128, np.float16)
    slot_mapping = stream.alloc_zeros(1, np.int32)
    return lambda: launch_int8_kv_cache_append(
        ctx, k, v, pools.k_pool, pools.v_pool, pools.k_scales, pools.v_scales, slot_mapping,
        1, 2, 128,
    )  # fmt: skip


def back_to_back(launch: Launch) -> Batch:
    def run(launches: int) -> float:
        begin = time.perf_counter_ns()
        for _ in repeat(None, launches):
            launch()
        return time.perf_counter_ns() - begin

    return run


def measure(ctx: CudaContext, batches: dict[str, Batch], rounds: int) -> dict[str, list[float]]:
    """Return nanoseconds a launch, one figure a round; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in batches}
    names, order = list(batches), random.Random(0)
    gc.disable()
    for round_number in range(rounds + 1):
        order.shuffle(names)
        for name in names:
            ctx.synchronize()
            per_launch = batches[name](LAUNCHES) / LAUNCHES
            ctx.synchronize()
            if round_number:
                times[name].append(per_launch)
    gc.enable()
    return times


def summary(ns: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(ns, n=4)
    return {"median": median / 1e3, "low_quartile": low / 1e3, "high_quartile": high / 1e3}


def print_table(report: dict[str, Any]) -> None:
    print(in_words(report["machine"]))
    print(f"microseconds of host time a launch; {report['rounds']} batches of {LAUNCHES} each\n")
    floor = report["us"][FLOOR]["median"]
    print(f"{'':<42}{'median':>8}{'quartiles':>20}{'of floor':>10}")
    for name, us in sorted(report["us"].items(), key=lambda item: item[1]["median"]):
        spread = f"{us['low_quartile']:.2f} .. {us['high_quartile']:.2f}"
        print(f"{name:<42}{us['median']:>8.2f}{spread:>20}{us['median'] / floor:>9.2f}x")
    for name, reason in report["absent"].items():
        print(f"{name:<42}{'absent':>8}  {reason}")


def check(report: dict[str, Any]) -> int:
    """Hold the figures against what is promised; return the exit code."""
    us = {name: figures["median"] for name, figures in report["us"].items()}
    broken = []
    if us[PREPARED] > 1.1 * us[FLOOR]:
        broken.append(f"{PREPARED} takes {us[PREPARED] / us[FLOOR]:.2f}x the floor; promised 1.1x")
    if CUPY not in us:
        broken.append(f"{CUPY} is absent, so {DECODE} has nothing to be held against")
    elif us[DECODE] >= us[CUPY]:
        broken.append(f"{DECODE} takes {us[DECODE]:.2f} us, {CUPY} {us[CUPY]:.2f} us")
    for line in broken:
        print(f"NOT KEPT: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
