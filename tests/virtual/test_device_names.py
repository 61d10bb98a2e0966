"""The virtual driver has the names, argument lists and types of the bindings that are installed."""

from __future__ import annotations

import inspect
import re

import pytest
from cuda.bindings import driver as real

from pyferrum_kv.virtual import VirtualDriver
from pyferrum_kv.virtual.calls.versions import BINDINGS_12, Calls12, Calls13

CALLS = Calls12 if BINDINGS_12 else Calls13
EMULATED = sorted(n for n in dir(CALLS) if n.startswith("cu") and hasattr(real, n))


def documented_parameters(name: str) -> list[str]:
    """Parameter names in the first line of a binding's docstring."""
    line = getattr(real, name).__doc__.splitlines()[0]
    inside, depth, found = line[line.index("(") + 1 : line.rindex(")")], 0, [""]
    for char in inside:
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            found.append("")
        else:
            found[-1] += char
    return [re.split("[:=]", p)[0].split()[-1].lstrip("*") for p in found if p.strip()]


@pytest.mark.parametrize("name", EMULATED)
def test_argument_lists_are_those_of_the_bindings(name):
    given = list(inspect.signature(getattr(CALLS, name)).parameters)[1:]
    assert given == documented_parameters(name)


def test_types_and_enums_are_the_bindings_own():
    driver = VirtualDriver()
    for name in ("CUresult", "CUdeviceptr", "CUlaunchConfig", "cuuint64_t", "CUDA_VERSION"):
        assert getattr(driver, name) is getattr(real, name)


def test_calls_that_the_bindings_lack_are_lacking_here():
    driver = VirtualDriver()
    assert hasattr(driver, "cuCtxCreate_v4") == BINDINGS_12
    assert hasattr(driver, "cuFuncGetParamCount") == hasattr(real, "cuFuncGetParamCount")
    with pytest.raises(AttributeError):
        driver.cuNothing()


def test_a_call_that_is_not_emulated_says_so_and_gives_as_many_values():
    driver = VirtualDriver()
    assert driver.cuMemAddressReserve(4096, 0, 0, 0) == (
        real.CUresult.CUDA_ERROR_NOT_SUPPORTED,
        None,
    )
    assert driver.last_error == "cuMemAddressReserve: not emulated by the virtual device"


def test_a_failed_call_gives_none_for_each_value():
    driver = VirtualDriver()
    assert driver.cuMemGetInfo() == (real.CUresult.CUDA_ERROR_NOT_INITIALIZED, None, None)
    driver.cuInit(0)
    assert driver.cuMemGetInfo() == (real.CUresult.CUDA_ERROR_INVALID_CONTEXT, None, None)


def test_every_status_has_a_name_and_a_sentence():
    driver = VirtualDriver()
    for name, status in real.CUresult.__members__.items():
        assert driver.cuGetErrorName(status)[1] == name.encode()
        assert driver.cuGetErrorString(status)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cc": (7, 0)}, "cc is"),
        ({"sm_count": 0}, "sm_count is 0"),
        ({"on_report": "ignore"}, "on_report is 'ignore'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VirtualDriver(**options)


def test_no_device_and_old_drivers_can_be_played():
    assert VirtualDriver(device_count=0).cuInit(0)[0] == real.CUresult.CUDA_ERROR_NO_DEVICE
    assert VirtualDriver(driver_version=11080).cuDriverGetVersion()[1] == 11080
