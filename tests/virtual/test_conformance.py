"""The conformance suite: the virtual driver and the real one pass it, and a fake does not."""

from __future__ import annotations

import pytest
from cuda.bindings import driver as real

from pyferrum_kv.testing import NotConforming, check_driver, checks
from pyferrum_kv.virtual import VirtualDriver


@pytest.mark.parametrize(
    "options",
    [{}, {"lazy": False}, {"cc": (8, 0)}, {"device_count": 2}, {"sanitize": False}, {"seed": 7}],
    ids=str,
)
def test_the_virtual_driver_conforms(options):
    driver = VirtualDriver(**options)
    assert check_driver(driver, faults=True) == len(checks(faults=True))
    assert {report.kind for report in driver.reports} == {"illegal_address", "misaligned", "trap"}


@pytest.mark.gpu
@pytest.mark.alone  # it looks at the device's free memory
def test_the_real_driver_conforms(device):
    try:
        real.cuInit(0)
    except RuntimeError as absent:
        pytest.skip(f"no NVIDIA driver: {absent}")
    assert check_driver(real) == len(checks())


class Forgetful:
    """A virtual driver whose fills do nothing."""

    def __init__(self):
        self._driver = VirtualDriver()

    def __getattr__(self, name):
        if name.startswith("cuMemset"):
            return lambda *_: (real.CUresult.CUDA_SUCCESS,)
        return getattr(self._driver, name)


def test_checks_are_chosen_by_name():
    names = ["check_a_trap_ends_the_context", "check_vector_add"]
    assert check_driver(VirtualDriver(), only=names) == 2
    with pytest.raises(ValueError, match="only names check_nothing"):
        check_driver(VirtualDriver(), only=["check_nothing"])


def test_a_driver_that_does_nothing_is_found_out():
    with pytest.raises(NotConforming, match="check_fills_of_each_width") as caught:
        check_driver(Forgetful())
    assert all(failure.says for failure in caught.value.failures)
