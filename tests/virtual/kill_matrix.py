"""Which planted faults are seen: every barrier and wait of the shipped kernels deleted in turn.

    python tests/virtual/kill_matrix.py --write                                 # virtual column
    python tests/virtual/kill_matrix.py --compute-sanitizer /path/to/binary     # hardware columns

A mutant is one entry's PTX without one synchronising instruction, under a name of its own, so that
compute-sanitizer names the mutant. The table is kill_matrix.json beside this file. On hardware all
mutants run in one process a tool; those that fault run in one of their own, and those that the
virtual device saw hang are left out. membar and fence are not deleted: neither the virtual device
nor compute-sanitizer sees memory ordering.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from mutants import DecodeShape, Mutant, mutants, run

from pyferrum_kv import CudaContext
from pyferrum_kv.errors import DriverError
from pyferrum_kv.virtual import VirtualDriver

TABLE = Path(__file__).with_name("kill_matrix.json")
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
FAULTING = {"illegal_address", "misaligned", "use_after_free", "trap"}
HANGING = {"timeout", "divergent_barrier"}


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
    row = {"deleted": mutant.text, "source": mutant.source} if mutant.text else {}
    return row | {"result": result, "virtual": sorted({r.kind for r in driver.reports})}


def virtual_table(entries: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The virtual column of every mutant, or of the mutants of some entries."""
    rows: dict[str, dict[str, Any]] = {}
    clean: bytes | None = None
    for mutant, shape in mutants():
        if entries and mutant.entry not in entries:
            continue
        if mutant.fault == "none":
            with CudaContext.new(0, driver=virtual_driver()) as context:
                clean = run(context, mutant, shape)
        rows[mutant.key] = virtual_row(mutant, shape, clean)
    return rows


def read_table() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(TABLE.read_text("utf-8"))
    return rows


def write_table(rows: dict[str, dict[str, Any]]) -> None:
    TABLE.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


# --------------------------------------------------------------- hardware


def child(keys: list[str]) -> int:
    """Run mutants on the GPU and say what came out; under compute-sanitizer."""
    results, clean = {}, {}
    with CudaContext.new(0) as context:
        for mutant, shape in mutants():
            if mutant.key not in keys and mutant.fault != "none":
                continue
            try:
                got = run(context, mutant, shape)
            except DriverError as error:
                results[mutant.key] = error.name.removeprefix("CUDA_ERROR_").lower()
                break
            clean.setdefault(mutant.entry, got)
            results[mutant.key] = "same" if got == clean[mutant.entry] else "differs"
    sys.stdout.write(f"RESULTS {json.dumps(results)}\n")
    return 0


def hardware_columns(binary: str, timeout_s: int) -> None:
    """Fill in what compute-sanitizer says of each mutant."""
    rows = read_table()
    runnable = [k for k, row in rows.items() if not HANGING & set(row["virtual"])]
    alone = [k for k in runnable if FAULTING & set(rows[k]["virtual"])]
    groups = [[k for k in runnable if k not in alone], *([k] for k in alone)]
    symbols = {mutant.symbol: mutant.key for mutant, _ in mutants()}
    for key, row in rows.items():
        row["hardware"] = {} if key in runnable else "not run: it would hang"
    for tool in TOOLS:
        for group in groups:
            output = _sanitized(binary, tool, group, timeout_s)
            found, results = _reports(output, symbols), _results(output)
            for key in group:
                rows[key]["hardware"][tool] = found.get(key, [])
                if tool == "memcheck" and key in results:
                    rows[key]["hardware"]["result"] = results[key]
    write_table(rows)


OPTIONS = {
    "memcheck": (["--destroy-on-device-error", "kernel"],),
    "racecheck": (["--racecheck-report", "all"],),
    "synccheck": ([],),
    # before 2025.4 initcheck knows global memory only, and has no such option
    "initcheck": (["--initcheck-address-space", "all"], []),
}


def _sanitized(binary: str, tool: str, group: list[str], timeout_s: int) -> str:
    """What compute-sanitizer writes about a group, with the first options that it understands."""
    for options in OPTIONS[tool]:
        command = [
            *(binary, "--tool", tool, "--print-limit", "100000", *options),
            *(sys.executable, __file__, "--child", json.dumps(group)),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        output = done.stdout + done.stderr
        sys.stdout.write(
            f"{tool} {' '.join(options)}: {len(group)} mutants, exit {done.returncode}\n"
        )
        if _results(output):
            return output
    raise SystemExit(f"{tool}: the mutants did not run:\n{output[-2000:]}")


def _results(output: str) -> dict[str, str]:
    found = re.search(r"^RESULTS (.*)$", output, re.MULTILINE)
    return json.loads(found[1]) if found else {}


def _reports(output: str, symbols: dict[str, str]) -> dict[str, list[str]]:
    """compute-sanitizer's first lines, by the mutant that their blocks name."""
    found: dict[str, set[str]] = {}
    for block in re.split(r"^========= *$", output, flags=re.MULTILINE):
        lines = [line.removeprefix("=========").strip() for line in block.splitlines()]
        titles = [line for line in lines if line and not line.startswith(("at ", "by ", "COMPUTE"))]
        for symbol, key in symbols.items():
            if re.search(rf"\b{symbol}\b", block) and titles:
                title = re.sub(r"0x[0-9a-f]+|\d+ hazards?|\d+ bytes?", "#", titles[0])
                found.setdefault(key, set()).add(title[:90])
    return {key: sorted(titles) for key, titles in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help="write the virtual column")
    parser.add_argument("--compute-sanitizer", metavar="BINARY", help="write hardware's columns")
    parser.add_argument("--timeout", type=int, default=240, help="seconds for each process")
    parser.add_argument("--child", metavar="KEYS", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        return child(json.loads(chosen.child))
    if chosen.compute_sanitizer:
        hardware_columns(chosen.compute_sanitizer, chosen.timeout)
        return 0
    rows, old = virtual_table(), read_table() if TABLE.exists() else {}
    for key, row in rows.items():
        line = ", ".join(row["virtual"]) or "-"
        sys.stdout.write(f"{key:60} {row['result']:10} {line}\n")
        for column in ("hardware", "explained"):
            if column in old.get(key, {}):
                row[column] = old[key][column]
    if chosen.write:
        write_table(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
