"""Programs written only against cuda.bindings.driver run unchanged on the virtual device."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from cuda.bindings import driver as real

from pyferrum_kv.virtual import VirtualDriver
from pyferrum_kv.virtual.stand_in import stand_in

PROGRAMS = sorted((Path(__file__).parents[2] / "examples" / "cuda_bindings").glob("*.py"))


def output(program, capsys):
    runpy.run_path(str(program), run_name="__main__")
    return capsys.readouterr().out


def on_virtual(program, capsys, **options):
    driver = VirtualDriver(report_leaks=True, **options)
    with stand_in(driver):
        said = output(program, capsys)
    driver.finish()
    assert not driver.reports
    return said


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_runs_unchanged(program, capsys):
    said = on_virtual(program, capsys)
    assert said.startswith(program.stem)
    assert said == on_virtual(program, capsys, cc=(8, 0), lazy=False)
    assert said == on_virtual(program, capsys, seed=5, sanitize=False)


@pytest.mark.gpu
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_says_the_same_on_the_gpu(program, capsys):
    try:
        real.cuInit(0)
    except RuntimeError as absent:
        pytest.skip(f"no NVIDIA driver: {absent}")
    assert output(program, capsys) == on_virtual(program, capsys)


def test_the_real_driver_is_back_afterwards():
    with stand_in(VirtualDriver()) as driver:
        from cuda.bindings import driver as found

        assert found is driver
    from cuda.bindings import driver as found

    assert found is real


def test_a_program_is_run_from_the_command_line():
    command = [sys.executable, "-m", "pyferrum_kv.virtual", str(PROGRAMS[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(PROGRAMS[0].stem)


def test_the_command_line_reports_what_went_wrong(tmp_path):
    program = tmp_path / "leaks.py"
    program.write_text(
        "from cuda.bindings import driver\n"
        "driver.cuInit(0)\n"
        "driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])\n"
        "driver.cuMemAlloc(16)\n"
    )
    command = [sys.executable, "-m", "pyferrum_kv.virtual", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "16 bytes of device memory" in done.stderr
