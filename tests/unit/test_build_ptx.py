"""python build_ptx.py: what it writes, prints and returns."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers.sources import SAXPY, fake_ptxas, write_sources

pytestmark = pytest.mark.slow  # they compile

Run = Callable[..., int]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "build_ptx.py"
    spec = importlib.util.spec_from_file_location("build_ptx", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script: ModuleType, tmp_path: Path) -> Run:
    """Run the script on one small source, into tmp_path/ptx, with a stand-in for ptxas."""
    (source,) = write_sources(tmp_path / "kernels", saxpy=SAXPY)
    ptxas = fake_ptxas(tmp_path)

    def run(*arguments: str) -> int:
        out = ["--out", str(tmp_path / "ptx"), "--ptxas", str(ptxas), "--arch", "compute_80"]
        return int(script.main([str(source), *out, *arguments]))

    return run


def test_build_then_check(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--check") == 1
    assert "ptx/saxpy.sm_80.ptx is missing; run python build_ptx.py" in capsys.readouterr().err
    assert not (tmp_path / "ptx").exists()

    assert run() == 0
    assert capsys.readouterr() == ("ptx/saxpy.sm_80.ptx\nptx/manifest.json\n", "")
    assert run() == 0
    assert capsys.readouterr().out == "nothing changed\n"
    assert run("--force") == 0
    assert capsys.readouterr().out == "nothing changed\n"
    assert run("--check") == 0
    assert capsys.readouterr() == ("ptx/ is what its sources give\n", "")
    assert run("--sources-only") == 0
    assert "their hashes alone" in capsys.readouterr().out


def test_check_fails_after_an_edit_and_writes_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    source = tmp_path / "kernels" / "saxpy.cu"
    source.write_text(SAXPY.replace("a, x[i], y[i]", "a, y[i], x[i]"), encoding="utf-8")
    before = {path: path.read_bytes() for path in (tmp_path / "ptx").iterdir()}
    capsys.readouterr()
    assert run("--check") == 1
    assert "ptx/saxpy.sm_80.ptx is not what its source gives" in capsys.readouterr().err
    assert run("--sources-only") == 1
    assert "kernels/saxpy.cu changed since ptx/saxpy.*.ptx was built" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "ptx").iterdir()} == before


def test_check_without_ptxas_says_what_was_not_compared(
    script: ModuleType,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run()
    capsys.readouterr()
    monkeypatch.setattr(script.Ptxas, "find", lambda: None)
    common = [str(tmp_path / "kernels/saxpy.cu"), "--out", str(tmp_path / "ptx")]
    assert script.main([*common, "--arch", "compute_80", "--check"]) == 0
    assert "register counts were not compared" in capsys.readouterr().out
    assert script.main(common) == 1
    assert "ptxas was not found; pip install nvidia-cuda-nvcc-cu12==" in capsys.readouterr().err


def test_another_ptxas_is_refused_for_building_and_taken_for_assembling(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    capsys.readouterr()
    old = str(fake_ptxas(tmp_path, "12.0.76", ("sm_80",)))
    assert run("--ptxas", old) == 1
    assert "found ptxas 12.0.76; wanted 12.9.86" in capsys.readouterr().err
    assert run("--assemble", old) == 0
    assert capsys.readouterr().out == "ptx/ assembles with ptxas 12.0.76\n"


def test_a_source_that_does_not_compile_is_no_traceback(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kernels" / "saxpy.cu").write_text("no C++", encoding="utf-8")
    assert run() == 1
    assert "NVRTC refused it" in capsys.readouterr().err


def test_progress_on_a_terminal_only(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert run() == 0
    shown = capsys.readouterr().err
    assert "saxpy sm_80" in shown
    assert shown.endswith("\r\033[K")


def test_a_single_source_never_replaces_the_bundle_of_the_project(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = write_sources(tmp_path, saxpy=SAXPY)
    assert script.main([str(source)]) == 1
    assert "SRC.cu needs --out" in capsys.readouterr().err
