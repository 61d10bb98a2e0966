"""What every benchmark needs first: a real device, and a line that says which machine it was."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
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


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
