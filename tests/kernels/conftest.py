"""Kernel tests make many contexts, one a test, over one primary context."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _over_one_primary_context(primary_context: None) -> None:
    pass
