"""The pytest plugin fails a test on what the sanitiser reports, though the test itself passes."""

from __future__ import annotations

from pathlib import Path

import pyferrum_kv

pytest_plugins = ["pytester"]

START = """
import pytest
def start(driver):
    driver.cuInit(0)
    driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
    return driver
def hazard(driver):
    pointer = driver.cuMemAlloc(64)[1]
    for value in (1, 2):
        driver.cuMemsetD8Async(pointer, value, 64, driver.cuStreamCreate(1)[1])
    driver.cuCtxSynchronize()
    driver.cuMemFree(pointer)
"""
CASES = {
    "clean": ("driver = start(virtual_device)\n    driver.cuMemFree(driver.cuMemAlloc(64)[1])", ""),
    "leak": ("start(virtual_device).cuMemAlloc(64)", ""),
    "hazard": ("hazard(start(virtual_device))", ""),
    "never_synchronised": (
        "driver = start(virtual_device)\n"
        "    pointer = driver.cuMemAlloc(64)[1]\n"
        "    for value in (1, 2):\n"
        "        driver.cuMemsetD8Async(pointer, value, 64, driver.cuStreamCreate(1)[1])",
        "report_leaks=False",
    ),
    "expected": ("hazard(start(virtual_device))", "expect_reports=True, on_report='collect'"),
    "expected_in_vain": ("start(virtual_device)", "expect_reports=True"),
    "options": (
        "assert start(virtual_device).cuDriverGetVersion()[1] == 12040",
        "driver_version=12040",
    ),
}


FAILING = {"leak", "hazard", "never_synchronised", "expected_in_vain"}


def test_the_fixture_judges_each_test(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(pyferrum_kv.__file__).parents[1]))
    tests = [START]
    for case, (body, options) in CASES.items():
        mark = f"@pytest.mark.virtual_device({options})\n" if options else ""
        tests.append(f"{mark}def test_{case}(virtual_device):\n    {body}\n")
    path = pytester.makepyfile("\n".join(tests))
    plugin = ("-p", "pyferrum_kv.pytest_plugin", "--strict-markers", "-rE")
    result = pytester.runpytest_subprocess(*plugin, path)
    result.assert_outcomes(passed=len(CASES), errors=len(FAILING))
    for case in FAILING:
        result.stdout.fnmatch_lines(f"ERROR *::test_{case}*")
