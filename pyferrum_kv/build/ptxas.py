"""Assemble PTX with ptxas and read what it reports: registers, stack, spills, shared memory.

The result is thrown away: the driver assembles again. What counts is that every PTX assembles for
every architecture promised (NVRTC's success does not prove it) and what it costs there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from pyferrum_kv.bundle.manifest import Usage
from pyferrum_kv.errors import BuildError

WHEEL = "nvidia-cuda-nvcc-cu12"
WANTED_WHEEL = "12.9.86"  # knows every architecture below
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

_FUNCTION = re.compile(
    r"Compiling entry function '(?P<entry>[^']+)' for '(?P<arch>\w+)'.*?"
    r"Function properties for (?P=entry)\s+(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SMEM = re.compile(r"(\d+)(?:\+\d+)? bytes smem")


@dataclass(frozen=True, slots=True)
class Ptxas:
    """One ptxas program and its full version."""

    path: str
    version: str  # "12.9.86"

    @classmethod
    def at(cls, path: str | Path) -> Ptxas:
        """Ask a ptxas for its version."""
        program = shutil.which(path)
        if program is None:
            raise BuildError(f"{path} does not run as ptxas: there is no such program")
        program = os.path.abspath(program)  # it runs in a folder of its own
        shown = _run([program, "--version"])
        found = re.search(r"V(\d+\.\d+\.\d+)", shown.stdout)
        if found is None:
            raise BuildError(f"{path} --version does not answer as ptxas does")
        return cls(program, found[1])

    @classmethod
    def find(cls) -> Ptxas | None:
        """Return the ptxas of the wheel in this environment; None: there is no such wheel."""
        try:
            files = metadata.files(WHEEL) or []
        except metadata.PackageNotFoundError:
            return None
        return next((cls.at(str(f.locate())) for f in files if f.name == "ptxas"), None)

    def knows(self, arch: str) -> bool:
        return f"'{arch}'" in _run([self.path, "--help"]).stdout

    def assemble(self, name: str, ptx: bytes, arch: str) -> tuple[Usage, ...]:
        """Assemble a PTX text for an architecture; BuildError carries what ptxas said."""
        with TemporaryDirectory() as folder:
            source = Path(folder) / "module.ptx"
            source.write_bytes(ptx)
            command = [self.path, "-v", f"-arch={arch}", "-o", "module.cubin", source.name]
            done = _run(command, folder)
        if done.returncode != 0:
            raise BuildError(f"{name}: ptxas {self.version} for {arch}: {done.stderr.strip()}")
        return tuple(_usage(found) for found in _FUNCTION.finditer(done.stderr))


def served(target: str) -> list[str]:
    """Return the architectures on which PTX of a target is promised to run."""
    lowest = int(target.removeprefix("sm_").rstrip("af"))
    if not target[-1].isdigit():
        return [target]
    return [arch for arch in ARCHITECTURES if int(arch.removeprefix("sm_")) >= lowest]


def _usage(found: re.Match[str]) -> Usage:
    smem = _SMEM.search(found["rest"])
    return Usage(
        entry=found["entry"],
        arch=found["arch"],
        registers=int(found["registers"]),
        stack_bytes=int(found["stack"]),
        spill_store_bytes=int(found["stores"]),
        spill_load_bytes=int(found["loads"]),
        static_shared_bytes=int(smem[1]) if smem else 0,
    )


def _run(command: list[str], folder: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
