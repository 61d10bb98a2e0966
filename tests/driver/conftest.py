"""Fixtures of the driver layer's tests: drivers that only record, and a context on each."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from helpers.fake_driver import FakeDriver
from helpers.native_launch import Native

from pyferrum_kv import CudaContext


@pytest.fixture
def fake() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def fake_ctx(fake: FakeDriver) -> Iterator[CudaContext]:
    context = CudaContext.new(0, driver=fake)
    yield context
    context.close()


@pytest.fixture
def native() -> Native:
    return Native()


@pytest.fixture
def module(fake: FakeDriver, native: Native) -> ModuleType:
    """The recording driver in the shape of the bindings' module, with `native` behind its name."""
    made = ModuleType("cuda.bindings.driver")

    def find(*args: Any) -> tuple[Any, ...]:
        native.asked.append(args)
        return fake.CUresult.CUDA_SUCCESS, native.address, None

    vars(made).update(__getattr__=lambda name: getattr(fake, name), cuGetProcAddress=find)
    return made


@pytest.fixture
def direct_ctx(module: ModuleType) -> Iterator[CudaContext]:
    context = CudaContext.new(0, driver=module)
    yield context
    context.close()
