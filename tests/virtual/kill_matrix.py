"""Which planted faults are seen: every barrier and wait of the shipped kernels deleted in turn.

    python tests/virtual/kill_matrix.py --write                        # the virtual device's column
    python tests/virtual/kill_matrix.py --compute-sanitizer BINARY     # hardware's, on a GPU
    python tests/virtual/kill_matrix.py --disagreements                # what has to be explained
    python tests/virtual/kill_matrix.py --explain 'd64*:wait 5' 'why'  # writes it to these rows

A mutant is one entry's PTX without one synchronising instruction, or on a bad input, under a name
of its own, so that compute-sanitizer names the mutant. The table is kill_matrix.json beside this
file. membar and fence are not deleted: neither side sees memory ordering as such.

Hardware runs the mutants of a few entries, which have every wait that any entry has; the other rows
say whose they share. The table is written after each process and a second run goes on where the
first was cut.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from virtual.kill_hardware import BARE, TOOLS, Outcome, Runner, child, tasks_of
from virtual.kill_verdict import disagreements
from virtual.mutants import REPRESENTATIVES, DecodeShape, Mutant, mutants, run, stand_ins

from pyferrum_kv import CudaContext
from pyferrum_kv.errors import DriverError
from pyferrum_kv.virtual import VirtualDriver

TABLE = Path(__file__).with_name("kill_matrix.json")
Rows = dict[str, dict[str, Any]]
LOGGED = 200_000  # characters of each process's output
KEPT = ("hardware", "explained", "disagreement")  # columns that --write carries over


def virtual_driver() -> VirtualDriver:
    """Few multiprocessors: the workspace grows with them."""
    return VirtualDriver(on_report="collect", memory=32 << 20, sm_count=4)


def virtual_row(mutant: Mutant, shape: DecodeShape, clean: bytes | None) -> dict[str, Any]:
    """What the virtual device says of a mutant."""
    driver = virtual_driver()
    context = CudaContext.new(0, driver=driver)
    try:
        with context:
            got = run(context, mutant, shape)
        result = "same" if clean is None or got == clean else "differs"
    except DriverError as error:
        result = error.name.removeprefix("CUDA_ERROR_").lower()
    finally:
        driver.finish()
    with contextlib.suppress(DriverError):  # of a context that is lost
        context.close()
    row = {"deleted": mutant.text, "source": mutant.source} if mutant.text else {}
    return row | {"result": result, "virtual": sorted({r.kind for r in driver.reports})}


def virtual_table(entries: tuple[str, ...] = ()) -> Rows:
    """The virtual column of every mutant, or of the mutants of some entries."""
    rows: Rows = {}
    clean: bytes | None = None
    for mutant, shape in mutants():
        if entries and mutant.entry not in entries:
            continue
        if mutant.fault == "none":
            with CudaContext.new(0, driver=virtual_driver()) as context:
                clean = run(context, mutant, shape)
            context.close()
        rows[mutant.key] = virtual_row(mutant, shape, clean)
    return rows


def read_table(table: Path = TABLE) -> Rows:
    rows: Rows = json.loads(table.read_text("utf-8"))
    return rows


def write_table(rows: Rows, table: Path = TABLE) -> None:
    partial = table.with_suffix(".partial")
    partial.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    os.replace(partial, table)


# --------------------------------------------------------------- hardware


def hardware_columns(chosen: argparse.Namespace) -> int:
    """Fill in what the GPU and compute-sanitizer say; 0 when no column is missing."""
    table, started = Path(chosen.table), time.monotonic()
    rows = read_table(table if table.exists() else TABLE)
    prints = {mutant.key: mutant.fingerprint for mutant, _ in mutants()}
    stand_in = stand_ins()
    entries = chosen.entries or ([] if chosen.all else list(REPRESENTATIVES))
    runs = [key for key in rows if key in prints and (not entries or key.split(":")[0] in entries)]
    for key, row in rows.items():
        told = row.get("hardware")
        stale = chosen.again or not isinstance(told, dict) or told["ptx"] != prints.get(key)
        if key in runs and stale:
            row["hardware"] = {"ptx": prints[key]}
        elif not isinstance(told, dict) and stand_in.get(key, key) != key:
            row["hardware"] = f"as {stand_in[key]}"

    def missing(tool: str) -> list[str]:
        column = "result" if tool == BARE else tool
        hung = [k for k in runs if tool != BARE and rows[k]["hardware"].get("result") == "hang"]
        return [k for k in runs if column not in rows[k]["hardware"] and k not in hung]

    def take(outcome: Outcome) -> None:
        tool = outcome.task.tool
        for key in outcome.reports:
            told = rows[key]["hardware"]
            told["device"] = outcome.device
            if tool == BARE:
                told["result"] = outcome.results[key]
                continue
            told["sanitizer"] = runner.version
            if outcome.results[key] in ("hang", "crash"):
                told[tool] = [*outcome.reports[key], outcome.results[key]]
            else:
                told[tool] = outcome.reports[key]
        write_table(rows, table)
        if chosen.logs:
            Path(chosen.logs).mkdir(parents=True, exist_ok=True)
            with (Path(chosen.logs) / f"{tool}.log").open("a", encoding="utf-8") as log:
                log.write(f"{outcome.output[:LOGGED]}\n")
        found = sum(map(len, outcome.reports.values()))
        sys.stdout.write(
            f"{time.monotonic() - started:4.0f} s  {tool:9} {outcome.task.keys[0]}"
            f" ({len(outcome.reports)} of {len(outcome.task.keys)} run, {found} reports);"
            f" {len(missing(tool))} of {tool} to go\n"
        )
        if not outcome.reports:
            sys.stdout.write(f"{outcome.output[-600:]}\n")
        sys.stdout.flush()

    write_table(rows, table)
    kinds = {key: row["virtual"] for key, row in rows.items()}
    until = started + chosen.budget
    runner = Runner(chosen.compute_sanitizer, take, workers=chosen.workers, stall_s=chosen.stall)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; the table has what was done"))
    try:
        in_time = runner.run(tasks_of(BARE, missing(BARE), kinds), until)
        tools = [tool for tool in chosen.tools.split(",") if tool != BARE]
        tasks = [task for tool in tools for task in tasks_of(tool, missing(tool), kinds)]
        in_time = in_time and runner.run(tasks, until)
    finally:
        runner.close()
    left = {tool: missing(tool) for tool in (BARE, *tools)}
    for tool, keys in left.items():
        if keys:
            sys.stdout.write(f"{tool}: {len(keys)} missing: {', '.join(keys)[:400]}\n")
    if not in_time:
        sys.stdout.write(f"{chosen.budget:.0f} s are over; run again to go on\n")
    return int(any(left.values()))


# ------------------------------------------------------------------- main


def tell_disagreements(rows: Rows) -> int:
    """Print what is not explained, and what was run on another text; 1 if something is."""
    prints = {mutant.key: mutant.fingerprint for mutant, _ in mutants()}
    unexplained = 0
    for key, row in rows.items():
        told = row.get("hardware")
        if isinstance(told, dict) and told["ptx"] != prints.get(key):
            sys.stdout.write(f"{key}: hardware ran an earlier text\n")
        for sentence in disagreements(row):
            why = row.get("disagreement", "")
            unexplained += not why
            sys.stdout.write(f"{key}: {sentence}: {why or 'NOT EXPLAINED'}\n")
    return int(unexplained > 0)


def explain(rows: Rows, pattern: str, why: str) -> int:
    """Write the reason to every disagreeing row whose key ends as the pattern says."""
    found = [
        k for k, row in rows.items() if disagreements(row) and fnmatch.fnmatch(k, f"*{pattern}")
    ]
    for key in found:
        rows[key]["disagreement"] = why
    sys.stdout.write(f"{len(found)} rows: {', '.join(found)}\n")
    return int(not found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--write", action="store_true", help="write the virtual device's columns")
    add("--compute-sanitizer", metavar="BINARY", help="write hardware's columns")
    add("--disagreements", action="store_true", help="list them; 1 when one is not explained")
    add("--explain", nargs=2, metavar=("PATTERN", "TEXT"), help="explain disagreements of rows")
    add("--table", default=str(TABLE), help="another table; begun from the one here")
    add("--tools", default=",".join(TOOLS), help=f"default: {','.join(TOOLS)}")
    add("--entries", nargs="+", metavar="ENTRY", help="run the mutants of these entries")
    add("--all", action="store_true", help="run the mutants of all entries")
    add("--again", action="store_true", help="also what the table has already")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes at once")
    add("--stall", type=float, default=40, help="seconds that a mutant may take")
    add("--budget", type=float, default=360, help="seconds for everything")
    add("--logs", metavar="FOLDER", help="keep what compute-sanitizer wrote")
    add("--child", metavar="KEYS", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        return child(json.loads(chosen.child), chosen.stall)
    if unknown := set(chosen.tools.split(",")) - {BARE, *TOOLS}:
        parser.error(f"--tools {','.join(unknown)}: wanted of {', '.join(TOOLS)}")
    if chosen.compute_sanitizer:
        return hardware_columns(chosen)
    rows = read_table(Path(chosen.table))
    if chosen.disagreements:
        return tell_disagreements(rows)
    if chosen.explain:
        status = explain(rows, *chosen.explain)
        write_table(rows, Path(chosen.table))
        return status
    old, rows = rows, virtual_table(tuple(chosen.entries or ()))
    for key, row in rows.items():
        line = ", ".join(row["virtual"]) or "-"
        sys.stdout.write(f"{key:60} {row['result']:10} {line}\n")
        row.update({c: old[key][c] for c in KEPT if c in old.get(key, {})})
    if chosen.write:
        write_table(old | rows if chosen.entries else rows, Path(chosen.table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
