"""pip install in every way that users have, each in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

# pip builds here without fetching anything: both must be in this environment
for package in ("hatchling", "editables"):
    pytest.importorskip(package, reason="these tests build with hatchling: pip install '.[test]'")

ROOT = Path(__file__).parents[2]
CODE = """
from pyferrum_kv.bundle import PtxBundle, bundle_files
assert PtxBundle.default().verify() == []
print(bundle_files())
"""


def run(*command: str | Path, cwd: Path) -> str:
    # PYTHONPATH would come before what is installed
    names = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=names,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path) -> Path:
    """A new environment that sees this one's packages, after its own; returns its python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    (Path(site.strip()) / "zz_parent.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pip install .", "pip install -e .", "sdist"])
def test_the_bundle_is_found_after(way: str, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    pip = [sys.executable, "-m", "pip", "--python", python]
    options = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
    what: list[str | Path] = ["-e", ROOT] if "-e" in way else [ROOT]
    if way == "sdist":
        run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
        what = list(tmp_path.glob("*.tar.gz"))
    run(*pip, *options, *what, cwd=tmp_path)
    found = run(python, "-c", CODE, cwd=tmp_path).strip()
    assert found == str(ROOT / "ptx") if "-e" in way else found.startswith(str(tmp_path / "venv"))
    assert "usage" in run(python.with_name("pyferrum-kv"), "--help", cwd=tmp_path)
