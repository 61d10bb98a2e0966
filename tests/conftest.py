"""Fixtures only. `ctx` runs a test on every driver at hand: virtual always, CUDA under @gpu."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers.device_lock import using_device
from hypothesis import settings

from pyferrum_kv import CudaContext, CudaStream
from pyferrum_kv.driver.api import open_driver
from pyferrum_kv.errors import DriverNotFound
from pyferrum_kv.virtual import VirtualDriver

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.load_profile("ci")


def open_context(driver: str) -> CudaContext:
    """Open device 0; the one place where a test is skipped, and for one reason."""
    if driver == "virtual":
        return CudaContext.new(0, driver=VirtualDriver())  # a test's own: no fault outlives it
    try:
        return CudaContext.new(0, driver=driver)
    except DriverNotFound:
        pytest.skip("no NVIDIA driver")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    """The real device, for the time of a test: beside other tests, or alone where marked so."""
    with using_device(alone=request.node.get_closest_marker("alone") is not None):
        yield


@pytest.fixture(scope="module")
def primary_context() -> Iterator[None]:
    """Device 0's primary context outlives those of a module's tests: to make one takes seconds."""
    try:
        api = open_driver("cuda")
    except DriverNotFound:
        yield  # each test says so itself
        return
    device = api.call("cuDeviceGet", 0)
    api.call("cuDevicePrimaryCtxRetain", device)
    yield
    api.call("cuDevicePrimaryCtxRelease", device)


@pytest.fixture(params=["virtual", pytest.param("cuda", marks=pytest.mark.gpu)])
def ctx(request: pytest.FixtureRequest) -> Iterator[CudaContext]:
    """A context of each driver at hand, closed after the test."""
    if request.param == "cuda":
        request.getfixturevalue("device")
    with open_context(request.param) as context:
        yield context
        context.synchronize()
    context.close()


@pytest.fixture
def gpu_ctx(device: None) -> Iterator[CudaContext]:
    """A context of the real driver, for tests marked gpu."""
    with open_context("cuda") as context:
        yield context
        context.synchronize()
    context.close()


@pytest.fixture
def stream(ctx: CudaContext) -> CudaStream:
    return ctx.new_stream()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
