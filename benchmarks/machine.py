"""What every benchmark needs: a real device, which machine it was, and figures kept as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from pyferrum_kv import CudaContext
from pyferrum_kv.errors import DriverNotFound


def open_gpu() -> CudaContext:
    """Open device 0 of the real driver; a time on the virtual device would mean nothing."""
    if os.environ.get("PYFERRUM_KV_DRIVER", "cuda") != "cuda":
        sys.exit("benchmarks measure a GPU: unset PYFERRUM_KV_DRIVER")
    try:
        return CudaContext.new(0, driver="cuda")
    except DriverNotFound as error:
        sys.exit(f"benchmarks measure a GPU: {str(error).splitlines()[0]}")


def machine(ctx: CudaContext) -> dict[str, Any]:
    """Return what a figure is worth nothing without: device, driver, bindings, Python."""
    return {
        "device": ctx.name,
        "num_sms": ctx.attribute("MULTIPROCESSOR_COUNT"),
        "l2_bytes": ctx.attribute("L2_CACHE_SIZE"),
        "cuda": f"{ctx.api.version // 1000}.{ctx.api.version % 1000 // 10}",
        "cuda_bindings": metadata.version("cuda-bindings"),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
    }


def in_words(facts: dict[str, Any]) -> str:
    return (
        f"{facts['device']}, driver for CUDA {facts['cuda']}, cuda-bindings "
        f"{facts['cuda_bindings']}, Python {facts['python']}, {facts['cpu']}"
    )


def json_parser(doc: str) -> argparse.ArgumentParser:
    """Read what a benchmark of one table is asked: --json."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def report_rows(
    measure: Callable[[CudaContext], list[dict[str, Any]]],
    show: Callable[[dict[str, Any]], None],
    *,
    rounds: int,
    file: Path | None,
) -> int:
    """Measure on the GPU, show the report, and keep it in `file`; the exit status."""
    ctx = open_gpu()
    with ctx:
        rows = measure(ctx)
    report = {"machine": machine(ctx), "rounds": rounds, "rows": rows}
    show(report)
    if file:
        file.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
