"""Fixtures of the driver layer's tests: a driver that only records, and a context on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext


@pytest.fixture
def fake() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def fake_ctx(fake: FakeDriver) -> Iterator[CudaContext]:
    context = CudaContext.new(0, driver=fake)
    yield context
    context.close()
