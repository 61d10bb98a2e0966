"""Let programs that import cuda.bindings.driver find a virtual driver there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MODULE = "cuda.bindings.driver"


@contextmanager
def stand_in(driver: Any) -> Iterator[Any]:
    """While it lasts, `from cuda.bindings import driver` gives `driver`.

    A module that imported the real one before keeps it; import what is to be tested inside.
    """
    real = importlib.import_module(MODULE)
    package = importlib.import_module("cuda.bindings")
    sys.modules[MODULE] = driver
    package.driver = driver  # type: ignore[attr-defined]
    try:
        yield driver
    finally:
        sys.modules[MODULE] = real
        package.driver = real  # type: ignore[attr-defined]
