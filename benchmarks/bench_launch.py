"""What a launch costs the host: C loops as the floor, ours, and what others offer.

    python -m benchmarks.bench_launch [--json FILE] [--check]

Method. A batch is 400 launches, back to back; the context is synchronised before and after, outside
the timed part, and 400 is well below the depth at which a launch waits for the device. Every
contender has one batch a round, in an order that changes from round to round. A figure is the
median over the rounds, in microseconds of host time a launch; `of floor` is the median over the
rounds of a batch's ratio to the C loop's batch of the same round, so that a slow second slows both.

Two processes. The first imports no peer: what a launch costs a program that uses this package
alone, and what --check holds against the floor. The second imports the peers, whose presence slows
every Python caller, and compares with them under the same conditions. launch_subject.py and
launch_peers.py say who launches what; launch_device.py adds what the device takes from one of these
kernels to the next.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.launch_device import on_device
from benchmarks.launch_subject import CLEAN, Launch, Subject, c_loops
from benchmarks.machine import in_words, machine, open_gpu
from pyferrum_kv import CudaContext

LAUNCHES, ROUNDS = 400, 101
FLOOR = "C loop on cuLaunchKernel"
PREPARED, FROZEN = "ours: prepared launch", "ours: frozen launch"
BUILDER = "ours: launch builder"
DECODE = "ours: launch_int8_paged_decode_attention"
APPEND = "ours: launch_int8_kv_cache_append"
CUPY = "CuPy RawKernel"
ON_DEVICE = (FLOOR, "C loop on cuGraphLaunch, one kernel", PREPARED, FROZEN)
MOST_OF_FLOOR, BUILDER_US = 1.1, 12.0
PARTS = {"alone": "no peer imported", "with_peers": "peers imported"}
Batch = Callable[[int], float]  # launches -> host nanoseconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--check", action="store_true", help="exit 1 if a promise is not kept")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--part", choices=PARTS, help="measure this one only")
    args = parser.parse_args()
    if args.part:
        report = measured(args.part, args.rounds)
    else:
        report = in_child("alone", args.rounds)
        try:
            report |= in_child("with_peers", args.rounds)
        except subprocess.CalledProcessError as ended:  # a peer may take its process with it
            report["absent"]["all peers"] = f"their process ended with {ended.returncode}"
    print_tables(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return check(report) if args.check else 0


def in_child(part: str, rounds: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        line = [sys.executable, "-m", "benchmarks.bench_launch", "--part", part]
        line += ["--rounds", str(rounds), "--json", str(file)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        report: dict[str, Any] = json.loads(file.read_text())
    return report


def measured(part: str, rounds: int) -> dict[str, Any]:
    ctx = open_gpu()
    with ctx:
        subject = Subject.on(ctx)
        batches, absent = contenders(subject, part == "with_peers")
        times = measure(ctx, batches, rounds)
        device = {}
        if part == "alone":
            chosen = {name: batches[name] for name in ON_DEVICE}
            device = {"on_device": on_device(subject, chosen, LAUNCHES, max(2, rounds // 5))}
    return {
        "machine": machine(ctx),
        "launches_a_batch": LAUNCHES,
        "rounds": rounds,
        part: {name: summary(ns, times[FLOOR]) for name, ns in times.items()},
        "absent": absent,
        **device,
    }


def contenders(subject: Subject, with_peers: bool) -> tuple[dict[str, Batch], dict[str, str]]:
    """Return the batches to time, and the peers that are not here with the reason."""
    batches: dict[str, Batch] = c_loops(subject)
    for name, ours in CLEAN.items():
        batches[name] = back_to_back(ours(subject))
    absent = {}
    for name, peer in peers().items() if with_peers else ():
        try:
            launch = peer(subject)
            launch()
            subject.ctx.synchronize()
        except Exception as reason:  # another library's failure is a row of the table, not ours
            absent[name] = f"{type(reason).__name__}: {reason}".splitlines()[0]
        else:
            batches[name] = back_to_back(launch)
    return batches, absent


def peers() -> dict[str, Callable[[Subject], Launch]]:
    from benchmarks.launch_peers import PEERS

    return PEERS


def back_to_back(launch: Launch) -> Batch:
    def run(launches: int) -> float:
        begin = time.perf_counter_ns()
        for _ in repeat(None, launches):
            launch()
        return time.perf_counter_ns() - begin

    return run


def measure(ctx: CudaContext, batches: dict[str, Batch], rounds: int) -> dict[str, list[float]]:
    """Return nanoseconds a launch, one figure a round; the first three rounds only warm up."""
    times: dict[str, list[float]] = {name: [] for name in batches}
    names, order = list(batches), random.Random(0)
    gc.collect()
    gc.disable()
    for round_number in range(-3, rounds):
        order.shuffle(names)
        for name in names:
            ctx.synchronize()
            per_launch = batches[name](LAUNCHES) / LAUNCHES
            ctx.synchronize()
            if round_number >= 0:
                times[name].append(per_launch)
    gc.enable()
    return times


def summary(ns: list[float], floor: list[float]) -> dict[str, float]:
    """Microseconds over the rounds, and the ratio to the floor round by round."""
    percentiles = statistics.quantiles(ns, n=100)
    of_floor = statistics.quantiles([a / b for a, b in zip(ns, floor, strict=True)], n=4)
    us = {f"p{p}": percentiles[p - 1] / 1e3 for p in (5, 25, 50, 75, 95)}
    names = ("of_floor_low_quartile", "of_floor", "of_floor_high_quartile")
    return {"min": min(ns) / 1e3, **us, **dict(zip(names, of_floor, strict=True))}


def print_tables(report: dict[str, Any]) -> None:
    print(in_words(report["machine"]))
    print(f"microseconds of host time a launch; {report['rounds']} batches of {LAUNCHES} each")
    for part, said in PARTS.items():
        if part not in report:
            continue
        head = "".join(f"{name:>8}" for name in ("median", "min", "p5", "p25", "p75", "p95"))
        print(f"\n{said:<43}{head}{'of floor':>10}{'quartiles':>14}")
        for name, row in sorted(report[part].items(), key=lambda item: item[1]["p50"]):
            us = "".join(f"{row[p]:>8.2f}" for p in ("p50", "min", "p5", "p25", "p75", "p95"))
            spread = f"{row['of_floor_low_quartile']:.2f} .. {row['of_floor_high_quartile']:.2f}"
            print(f"{name:<43}{us}{row['of_floor']:>9.3f}x{spread:>14}")
    for name, reason in report["absent"].items():
        print(f"{name:<43}{'absent':>8}  {reason}")
    if "on_device" in report:
        print(f"\n{'device us from kernel to kernel':<43}{'median':>8}{'p25':>8}{'p75':>8}")
    for name, row in report.get("on_device", {}).items():
        print(f"{name:<43}" + "".join(f"{row[p]:>8.2f}" for p in ("p50", "p25", "p75")))


def check(report: dict[str, Any]) -> int:
    """Hold the figures against what is promised; return the exit code."""
    broken = []
    alone, among = report.get("alone", {}), report.get("with_peers", {})
    if alone:
        ratios = {name: alone[name]["of_floor"] for name in (PREPARED, FROZEN)}
        said = ", ".join(f"{name} takes {ratio:.3f}x" for name, ratio in ratios.items())
        said += f" the floor; promised {MOST_OF_FLOOR}x for the cheaper"
        if min(ratios.values()) > MOST_OF_FLOOR:
            broken.append(said)
        else:
            print(said)
    if alone and alone[BUILDER]["p50"] > BUILDER_US:
        broken.append(f"{BUILDER} takes {alone[BUILDER]['p50']:.2f} us; promised {BUILDER_US} us")
    if among and CUPY not in among:
        broken.append(f"{CUPY} is absent, so {DECODE} has nothing to be held against")
    for name in (DECODE, APPEND) if CUPY in among else ():
        ours, theirs = among[name]["p50"], among[CUPY]["p50"]
        if ours >= theirs:
            broken.append(f"{name} takes {ours:.2f} us, {CUPY} {theirs:.2f} us")
    for line in broken:
        print(f"NOT KEPT: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
