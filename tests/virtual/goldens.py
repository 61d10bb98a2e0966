"""Goldens: what hardware computes for every opcode form, kept in goldens.npz beside this file.

    PYTHONPATH=.:tests python -m virtual.goldens --record tests/virtual/goldens.npz   # on a GPU
    PYTHONPATH=.:tests python -m virtual.goldens --missing --record tests/virtual/goldens.npz
    PYTHONPATH=.:tests python -m virtual.goldens --write /tmp/ptx         # the PTX, for ptxas

With --missing, only the cases run that the file has not, or has of an earlier text; those that are
no more are dropped.

The file holds for each case the fingerprint of its kernel and inputs, and the bytes of its output.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from virtual.golden_forms import APPROXIMATE, BOUNDED, EXACT, SM_90
from virtual.golden_kernels import (
    atomic_cases,
    matrix_cases,
    memory_cases,
    warp_cases,
)
from virtual.golden_random import random_cases
from virtual.golden_text import LANES, Case, register_case

from pyferrum_kv.virtual.memory import Memory
from pyferrum_kv.virtual.parser import parse_ptx
from pyferrum_kv.virtual.run import launch

GOLDENS = Path(__file__).with_name("goldens.npz")


@lru_cache(maxsize=1)
def all_cases() -> dict[str, Case]:
    """Every case by its name."""
    cases = [register_case(opcode) for opcode in EXACT]
    cases += [register_case(opcode, limit) for opcode, limit in APPROXIMATE.items()]
    cases += [register_case(opcode, limit, absolute=True) for opcode, limit in BOUNDED.items()]
    cases += [register_case(opcode, target="sm_90") for opcode in SM_90 if opcode not in EXACT]
    cases += warp_cases() + memory_cases() + atomic_cases() + matrix_cases() + random_cases()
    found = {case.name: case for case in cases}
    if len(found) != len(cases):
        names = [case.name for case in cases]
        raise ValueError(f"twice: {sorted({n for n in names if names.count(n) > 1})}")
    return found


# --------------------------------------------------------------- devices


def on_virtual(case: Case) -> np.ndarray:
    """uint64 [LANES, results] from the virtual machine."""
    memory = Memory(1 << 20)
    pointers = [memory.alloc(LANES * 8, init=True) for _ in range(3)]
    out = memory.alloc(LANES * 8 * case.results, init=True)
    for pointer, array in zip(pointers, case.arrays(), strict=True):
        memory.write(pointer, array.tobytes())
    memory.fill(out, b"\0", LANES * 8 * case.results)
    kernel = parse_ptx(case.text).kernels[case.entry]
    assert not kernel.unsupported, kernel.unsupported
    params = struct.pack("<4Q", *pointers, out)
    facts = launch(kernel, (1, 1, 1), (LANES, 1, 1), 0, params, memory, {})
    assert not facts.reports, facts.reports[0]
    return memory.read(out, LANES * 8 * case.results).view(np.uint64).reshape(LANES, -1)


class Hardware:
    """Device 0, through cuda.bindings.driver alone."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self.driver: Any = driver
        self.call("cuInit", 0)
        self.call("cuCtxSetCurrent", self.call("cuDevicePrimaryCtxRetain", 0))

    def call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self.driver, name)(*arguments)
        if status != self.driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{name}: {status!r}")
        return values[0] if len(values) == 1 else values

    def run(self, case: Case) -> np.ndarray:
        """uint64 [LANES, results] from the device."""
        module = self.call("cuModuleLoadData", case.text.encode() + b"\0")
        function = self.call("cuModuleGetFunction", module, case.entry.encode())
        out = np.zeros((LANES, case.results), np.uint64)
        arrays = [*case.arrays(), out]
        pointers = [self.call("cuMemAlloc", a.nbytes) for a in arrays]
        for pointer, array in zip(pointers, arrays, strict=True):
            self.call("cuMemcpyHtoD", pointer, array.ctypes.data, array.nbytes)
        values = np.array([int(p) for p in pointers], np.uint64)
        slots = np.array([values.ctypes.data + 8 * i for i in range(4)], np.uint64)
        self.call(
            "cuLaunchKernel", function, 1, 1, 1, LANES, 1, 1, 0, 0, slots.ctypes.data, 0
        )  # fmt: skip
        self.call("cuCtxSynchronize")
        self.call("cuMemcpyDtoH", out.ctypes.data, pointers[3], out.nbytes)
        for pointer in pointers:
            self.call("cuMemFree", pointer)
        self.call("cuModuleUnload", module)
        return out


# ------------------------------------------------------------- comparing

_KINDS = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "f16x2": np.float16}


def packed(case: Case, whole: np.ndarray) -> np.ndarray:
    """The bytes of an output that its type fills, as the goldens keep them."""
    if case.results == 1 and case.name.startswith(("shfl", "match.all", "random int", "mma")):
        return whole.astype("<u8")
    if case.compare in ("f64", "u64", "s64") or case.name.startswith("mma"):
        return whole.astype("<u8")
    return whole.astype("<u4")


def mismatches(case: Case, got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Lanes whose results are not as near as the case demands."""
    kind = _KINDS.get(case.compare)
    if kind is None and case.compare.startswith("bf16"):
        halves = [np.ascontiguousarray(a).view(np.uint16) for a in (got, wanted)]
        got, wanted = ((h.astype(np.uint32) << 16).view(np.float32) for h in halves)
        kind = np.float32
    if kind is None:
        return np.flatnonzero((got != wanted).any(1))
    a, b = (np.ascontiguousarray(v).view(kind).reshape(LANES, -1) for v in (got, wanted))
    same = (a.view(f"u{a.itemsize}") == b.view(f"u{a.itemsize}")) | (np.isnan(a) & np.isnan(b))
    if case.limit:
        with np.errstate(all="ignore"):
            wide, true = a.astype(np.float64), b.astype(np.float64)
            unit = 1.0 if case.absolute else np.spacing(np.abs(b)).astype(np.float64)
            same |= np.abs(wide - true) <= case.limit * unit
    return np.flatnonzero(~same.all(1))


# --------------------------------------------------------------- the file


def record(path: Path, run: Callable[[Case], np.ndarray], *, missing: bool = False) -> list[str]:
    """Run every case, or only what the file is missing, and write the file; the names that ran."""
    cases = all_cases()
    found: dict[str, np.ndarray] = {}
    if missing:
        known = read(path)
        found = {n: known[n][1] for n, c in cases.items() if known.get(n, "?")[0] == c.fingerprint}
    ran = [name for name in cases if name not in found]
    for name in ran:
        found[name] = packed(cases[name], run(cases[name]))
    write(path, found)
    return ran


def write(path: Path, outputs: dict[str, np.ndarray]) -> None:
    """One array of all outputs, one of their sizes: few members make a small zip."""
    names = sorted(outputs)
    parts = [np.ascontiguousarray(outputs[name]) for name in names]
    data = np.concatenate([p.reshape(-1).view(np.uint8) for p in parts])
    cases = all_cases()
    np.savez_compressed(
        path,
        names=np.array(names),
        fingerprints=np.array([cases[name].fingerprint for name in names]),
        sizes=np.array([p.nbytes for p in parts]),
        widths=np.array([p.itemsize for p in parts]),
        data=data,
    )


def read(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Case name -> (fingerprint, output)."""
    with np.load(path) as file:  # which unpacks an array each time that it is asked for
        columns = [file[c] for c in ("names", "fingerprints", "sizes", "widths")]
        data = file["data"]
    found, start = {}, 0
    for name, fingerprint, size, width in zip(*(c.tolist() for c in columns), strict=True):
        values = data[start : start + size].view(f"<u{width}").reshape(LANES, -1)
        found[name], start = (fingerprint, values), start + size
    return found


def modules() -> Iterator[tuple[str, str]]:
    """(target, PTX) of all cases of a target in one module, for ptxas."""
    for target in ("sm_80", "sm_90"):
        cases = [c for c in all_cases().values() if c.target == target]
        header = f".version 8.0\n.target {target}\n.address_size 64\n"
        yield target, header + "".join(c.text.removeprefix(header) for c in cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, metavar="NPZ")
    parser.add_argument("--missing", action="store_true", help="record only what is not there")
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    if asked.record:
        ran = record(asked.record, Hardware().run, missing=asked.missing)
        told = f"{len(ran)} of {len(all_cases())} cases run, {asked.record.stat().st_size} bytes"
        print(f"{told}: {', '.join(ran[:20])}")  # noqa: T201
    if asked.write:
        asked.write.mkdir(parents=True, exist_ok=True)
        for target, text in modules():
            (asked.write / f"goldens.{target}.ptx").write_text(text)


if __name__ == "__main__":
    main()
