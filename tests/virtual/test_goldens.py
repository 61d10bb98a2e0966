"""The virtual machine against what an H200 computed, form by form."""

from __future__ import annotations

import numpy as np
import pytest
from virtual import goldens

RECORD = "PYTHONPATH=.:tests python -m virtual.goldens --record tests/virtual/goldens.npz"


@pytest.fixture(scope="module")
def recorded() -> dict[str, tuple[str, np.ndarray]]:
    assert goldens.GOLDENS.is_file(), f"{goldens.GOLDENS} is missing; on a GPU run: {RECORD}"
    assert goldens.GOLDENS.stat().st_size < 400_000
    return goldens.read(goldens.GOLDENS)


@pytest.mark.parametrize("name", goldens.all_cases())
def test_form_gives_what_hardware_gave(
    name: str, recorded: dict[str, tuple[str, np.ndarray]]
) -> None:
    case = goldens.all_cases()[name]
    assert name in recorded, f"{name} was never recorded; on a GPU run: {RECORD}"
    fingerprint, wanted = recorded[name]
    assert fingerprint == case.fingerprint, f"{name} has changed since; on a GPU run: {RECORD}"
    got = goldens.packed(case, goldens.on_virtual(case))
    wrong = goldens.mismatches(case, got, wanted)
    inputs = [[hex(int(a[i])) for a in case.arrays()] for i in wrong[:3]]
    values = [([hex(int(v)) for v in got[i]], [hex(int(v)) for v in wanted[i]]) for i in wrong[:3]]
    assert not wrong.size, f"{wrong.size} lanes: inputs {inputs}, (got, hardware) {values}"
