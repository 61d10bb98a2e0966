"""Compile the kernels of FlashInfer and XQA that the shapes need, all at once and ahead of time.

    python -m benchmarks.decode_peers_build [SHAPE ...] [--set SET ...]

FlashInfer compiles at first use, one module after the other; here one ninja compiles all of them,
on every core. They lie below $FLASHINFER_WORKSPACE_BASE (default: home), where later runs find
them. What fails to compile is named with the compiler's first error, is not tried again while its
failed.txt lies there, and does not stop the others.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.decode_shapes import SETS, Shape, chosen, shape_name

FAILED = "failed.txt"
FLASHINFER_HEAD_DIMS = (64, 128, 256)
CUDA_CORE_GROUPS = (1, 2, 3, 4, 8)
XQA_BLOCK_SIZES = (16, 32, 64, 128)


class Absent(Exception):
    """A peer has no figure; the text says why."""


def flashinfer_spec(shape: Shape, kv: str, tensor_cores: bool) -> Any:
    """FlashInfer's module for a shape; kv is "fp16" (the dtype of q) or "fp8"."""
    if shape.head_dim not in FLASHINFER_HEAD_DIMS:
        raise Absent(f"head_dim {shape.head_dim}; FlashInfer dispatches {FLASHINFER_HEAD_DIMS}")
    if not tensor_cores and shape.group not in CUDA_CORE_GROUPS:
        raise Absent(f"{shape.group} query heads a KV head; CUDA cores serve {CUDA_CORE_GROUPS}")
    torch, modules = _torch(), _flashinfer("flashinfer.jit.attention.modules")
    q = getattr(torch, shape.dtype)
    dtypes = (q, q if kv == "fp16" else torch.float8_e4m3fn, q, torch.int32)
    rest = (shape.head_dim, shape.head_dim, 0, shape.window_left >= 0, False)
    if tensor_cores:
        return modules.gen_batch_prefill_module("fa2", *dtypes, *rest, False)
    return modules.gen_batch_decode_module(*dtypes, *rest)


def xqa_spec(shape: Shape) -> Any:
    """XQA's module for a shape and an fp8 cache."""
    if shape.lse:
        raise Absent("XQA returns no lse")
    if shape.block_size not in XQA_BLOCK_SIZES:
        raise Absent(f"blocks of {shape.block_size}; XQA has {XQA_BLOCK_SIZES}")
    torch, xqa = _torch(), _flashinfer("flashinfer.jit.xqa")
    q = getattr(torch, shape.dtype)
    cut = shape.window_left >= 0
    sizes = (shape.block_size, shape.head_dim, shape.group)
    return xqa.gen_xqa_module(q, torch.float8_e4m3fn, *sizes, cut, q, 1)


def compiled(spec: Any) -> None:
    """Absent unless the module's library is there to be loaded."""
    if spec.is_compiled:
        return
    failed = spec.build_dir / FAILED
    why = failed.read_text().strip() if failed.exists() else "run benchmarks.decode_peers_build"
    raise Absent(f"not compiled: {why}")


def specs_of(shapes: Iterable[Shape]) -> dict[str, Any]:
    """All modules that serve a shape, by name."""
    makers: list[Callable[[Shape], Any]] = [
        xqa_spec,
        *(
            partial(flashinfer_spec, kv=kv, tensor_cores=tensor_cores)
            for kv in ("fp16", "fp8")
            for tensor_cores in (True, False)
        ),
    ]
    specs: dict[str, Any] = {}
    for shape in shapes:
        for make in makers:
            try:
                spec = make(shape)
            except Absent:  # decode_peers.py says so at the shape
                continue
            specs[spec.name] = spec
    return specs


def build(shapes: Iterable[Shape], say: Callable[[str], None] = print) -> None:
    """Compile what is missing, with progress. Absent where FlashInfer is."""
    _torch()
    _flashinfer("flashinfer.jit.core")
    specs = specs_of(shapes)
    missing = [s for s in specs.values() if not s.is_compiled]
    todo = [s for s in missing if not (s.build_dir / FAILED).exists()]
    say(f"{len(specs)} modules, {len(specs) - len(missing)} compiled, {len(todo)} to compile")
    if not todo:
        return
    for spec in todo:
        spec.write_ninja()
    folder = todo[0].build_dir.parent
    together = folder / "together.ninja"
    together.write_text("".join(f"subninja {s.ninja_path}\n" for s in todo))
    started = time.monotonic()
    log = _run_ninja(folder, together, say)
    for spec in todo:
        if not spec.is_compiled:
            (spec.build_dir / FAILED).write_text(first_error(log, spec.name))
            say(f"failed: {spec.name}: {first_error(log, spec.name)}")
    say(f"{sum(s.is_compiled for s in todo)} compiled in {time.monotonic() - started:.0f} s")


def _run_ninja(folder: Path, ninja_file: Path, say: Callable[[str], None]) -> list[str]:
    """Run ninja to the end whatever fails; return its output."""
    command = ["ninja", "-k", "0", "-j", os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)]
    with subprocess.Popen(
        [*command, "-C", str(folder), "-f", str(ninja_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NINJA_STATUS": "[%f/%t, %e s] "},
    ) as process:
        assert process.stdout is not None
        log = []
        for line in process.stdout:
            log.append(line.rstrip())
            status = re.match(r"\[(\d+)/(\d+), ([\d.]+) s\].*?([\w.]+)$", log[-1])
            if status:
                say("  {} of {} steps, {} s: {:.90}".format(*status.groups()))
    return log


def first_error(log: list[str], name: str) -> str:
    """The first error that ninja's output has of a module, in a line."""
    at = next((i for i, text in enumerate(log) if "FAILED" in text and f"/{name}/" in text), None)
    if at is None:
        return "ninja stopped before it"
    for text in log[at + 1 :]:
        if "error" in text.lower() and not text.startswith("["):
            return text[:300]
    return log[min(at + 1, len(log) - 1)][:300]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise Absent(f"torch: {error}") from error
    return torch


def _flashinfer(module: str) -> Any:
    """Import a module of FlashInfer, which then loads what build() compiled and runs no ninja."""
    os.environ.setdefault("FLASHINFER_LOGGING_LEVEL", "warning")
    try:
        env: Any = import_module("flashinfer.jit.env")
        env.FLASHINFER_AOT_DIR = env.FLASHINFER_JIT_DIR
        return import_module(module)
    except Exception as error:  # a package in its way raises whatever it likes
        raise Absent(f"{module}: {type(error).__name__}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shapes", nargs="*", type=shape_name, metavar="SHAPE")
    parser.add_argument("--set", nargs="*", choices=list(SETS), default=[], dest="sets")
    args = parser.parse_args()
    sets = args.sets or ([] if args.shapes else ["goals"])

    def say(text: str) -> None:
        print(text, flush=True)

    build([shape for _, shape in chosen(args.shapes, sets)], say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
