"""The pytest plugin: `virtual_device` gives a test a CUDA device on the CPU.

The test fails on anything the sanitiser reports, and on memory alive at the end, even when it
looked at neither. Loaded by entry point; nothing is imported before a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyferrum_kv.virtual import VirtualDriver


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "virtual_device(**options): options of the VirtualDriver that the fixture gives, "
        "and expect_reports=True for a test that plants faults",
    )


@pytest.fixture
def virtual_device(request: pytest.FixtureRequest) -> Iterator[VirtualDriver]:
    """A VirtualDriver of the test's own; `@pytest.mark.virtual_device(cc=(8, 0))` sets options.

    With `expect_reports=True` the test fails when nothing was reported: what it plants is seen.
    """
    from pyferrum_kv.virtual import VirtualDriver

    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("virtual_device"))):
        options |= marker.kwargs
    expects = options.pop("expect_reports", False)
    driver = VirtualDriver(**({"report_leaks": True} | options))
    yield driver
    driver.finish()
    listed = "\n".join(str(report) for report in driver.reports)
    if driver.reports and not expects:
        pytest.fail(f"the virtual device reported:\n{listed}", pytrace=False)
    if expects and not driver.reports:
        pytest.fail("the virtual device reported nothing; wanted a report", pytrace=False)
