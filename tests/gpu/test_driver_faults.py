"""The conformance suite's checks that end a context, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyferrum_kv.testing import checks

FAULTS = [check.__name__ for check in checks(faults=True)[len(checks()) :]]
REAL = "from cuda.bindings import driver"
VIRTUAL = "from pyferrum_kv.virtual import VirtualDriver; driver = VirtualDriver()"


def verdict(driver: str, check: str) -> tuple[int, str]:
    """Exit status and output of a process that runs one check."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n{driver}\n"
        "from pyferrum_kv.testing import check_driver\n"
        f"print(check_driver(driver, only=[{check!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu_ctx")
@pytest.mark.parametrize("check", FAULTS)
def test_a_fault_on_the_real_driver(check: str) -> None:
    assert verdict(REAL, check) == (0, "1")


@pytest.mark.slow
def test_a_process_tells_what_its_check_found() -> None:
    assert verdict(VIRTUAL, FAULTS[0]) == (0, "1")
    eager = VIRTUAL.replace("VirtualDriver()", "VirtualDriver(lazy=False)")
    deaf = f"{eager}; driver.cuStreamSynchronize = lambda stream: (driver.CUresult(0),)"
    status, said = verdict(deaf, FAULTS[0])
    assert status == 1
    assert "NotConforming" in said
    assert FAULTS[0] in said
