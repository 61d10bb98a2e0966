"""paged_decode_attention_int8 against reading its bytes and against peers, on one GPU in one run.

    python -m benchmarks.bench_decode [SHAPE ...] [--set SET ...] [--peers] [--rounds N]
                                      [--json FILE] [--pictures FOLDER] [--resume]

Method. A call is one decode step of one layer. Each subject is a captured graph of many calls on
caches of their own, blocks in random order, so that a replay passes over more than the L2 holds.
Subjects take turns; device time a call is the replay's over its calls, the median of the rounds.
`limit` is a kernel that only reads as many bytes, codes and scales, contiguously; the best of four
grids. Peers that are not installed, do not compile, do not serve a shape or compute something else
are named with the reason. Figures go to FILE as they come, and pictures of them to FOLDER at the
end; `python -m benchmarks.plot_decode FILE` draws them again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.decode_ours import Arena, Ours
from benchmarks.decode_peers import WAYS
from benchmarks.decode_peers_build import Absent, build
from benchmarks.decode_report import Report, head, line, tail
from benchmarks.decode_shapes import HEAT_HEAD_DIMS, SETS, Shape, chosen, heat_map, shape_name
from benchmarks.decode_torch import TorchMemory
from benchmarks.machine import in_words, machine, open_gpu
from benchmarks.plot_decode import NoMatplotlib, draw
from benchmarks.replay import in_turn
from pyferrum_kv import CudaContext

JSON = Path("build/bench/decode.json")
HEAT_ROUNDS = 3
PACKAGES = ("torch", "flashinfer-python", "apache-tvm-ffi")


def main() -> int:
    args = parse(sys.argv[1:])
    sets = args.sets or ([] if args.shapes else ["goals"])
    if "all" in sets:
        sets = [*SETS, "heat"]
    plan = chosen(args.shapes, [name for name in sets if name != "heat"])
    peered = plan if args.peers else []
    ctx = open_gpu()
    facts = machine(ctx) | {"rounds": args.rounds, "packages": packages() if args.peers else {}}
    say(in_words(facts))
    if facts["packages"]:
        say(", ".join(f"{name} {version}" for name, version in facts["packages"].items()))
    report = Report(args.json, facts, resume=args.resume)
    if peered:
        try:
            build([shape for _, shape in peered], say)
        except Absent as reason:
            say(f"absent: {reason}")
    if "heat" in sets:
        plan += [("heat", s) for d in args.head_dims for s in heat_map(d, args.heads)]
    run(ctx, plan, args, report)
    for text in tail(report.rows):
        say(text)
    say(f"figures in {args.json}")
    try:
        for path in draw(report.data, args.pictures or args.json.parent):
            say(f"picture in {path}")
    except NoMatplotlib as error:
        say(f"no pictures: {error}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time paged_decode_attention_int8.")
    parser.add_argument("shapes", nargs="*", type=shape_name, metavar="SHAPE")
    parser.add_argument(
        "--set", action="append", choices=[*SETS, "heat", "all"], default=[], dest="sets"
    )
    parser.add_argument("--peers", action="store_true", help="in every set but heat")
    parser.add_argument("--rounds", type=int, default=7, help=f"heat has {HEAT_ROUNDS} at most")
    parser.add_argument("--json", type=Path, default=JSON, metavar="FILE")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="by default FILE's folder")
    parser.add_argument("--resume", action="store_true", help="keep what FILE has, do the rest")
    parser.add_argument("--heads", default="32/8", metavar="Q/KV", help="of the heat map")
    parser.add_argument(
        "--head-dim",
        type=int,
        action="append",
        dest="head_dims",
        help=f"of the heat map; {', '.join(map(str, HEAT_HEAD_DIMS))} by default",
    )
    args = parser.parse_args(argv)
    args.head_dims = args.head_dims or list(HEAT_HEAD_DIMS)
    return args


def packages() -> dict[str, str]:
    """The versions of what the peers come from."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def say(text: str) -> None:
    print(text, flush=True)


def run(
    ctx: CudaContext, plan: list[tuple[str, Shape]], args: argparse.Namespace, report: Report
) -> None:
    memory: TorchMemory | None = None
    no_torch = ""
    if args.peers:
        try:
            memory = TorchMemory()
        except Absent as reason:
            no_torch = str(reason)
            say(f"absent: all peers: {no_torch}")
    say("\nmicroseconds a call\n" + head())
    with ctx, ctx.new_stream() as stream:
        arena = Arena(stream)
        for number, (set_name, shape) in enumerate(plan, 1):
            if report.has(set_name, shape):
                continue
            began = time.monotonic()
            if set_name == "heat" and memory is not None:
                memory.clear()
                memory = None
            ours = Ours(ctx, arena, shape)
            timers = ours.timers()
            absent = {"peers": no_torch} if no_torch else {}
            if memory is not None:
                absent = add_peers(timers, memory, shape, report)
            rounds = min(args.rounds, HEAT_ROUNDS) if set_name == "heat" else args.rounds
            row = report.add(set_name, shape, in_turn(timers, rounds), absent)
            ours.close()
            timers.clear()  # and with it the memory that the peers' graphs use
            took = time.monotonic() - began
            say(f"{line(row)}  [{number}/{len(plan)}, {took:.1f} s]")
        arena.close()


def add_peers(
    timers: dict[str, Callable[[], float]], memory: TorchMemory, shape: Shape, report: Report
) -> dict[str, str]:
    """Add timers of all ways that work for a shape; return why the others do not."""
    absent: dict[str, str] = {}
    for way, prepare in ((way, make) for ways in WAYS.values() for way, make in ways.items()):
        if report.crashed(way, shape):
            absent[way] = "it took the process down"
            continue
        report.trying(way, shape)
        try:
            made = prepare(memory, shape)
            made.check(shape)
            timers[way] = memory.capture(made)
        except Absent as reason:
            absent[way] = str(reason)
        except Exception as error:  # a peer raises whatever it likes; it is said, not hidden
            absent[way] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            if not memory.is_sound():
                say(f"{way} at {shape.name} broke the context: {absent[way]}; starting over")
                again = [a for a in sys.argv[1:] if a != "--resume"]
                os.execv(
                    sys.executable,
                    [sys.executable, "-m", "benchmarks.bench_decode", *again, "--resume"],
                )
        report.tried()
    return absent


if __name__ == "__main__":
    sys.exit(main())
