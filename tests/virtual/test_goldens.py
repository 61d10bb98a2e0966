"""The virtual machine against what an H200 computed, form by form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from virtual import goldens

RECORD = "PYTHONPATH=.:tests python -m virtual.goldens --missing --record tests/virtual/goldens.npz"


@pytest.fixture(scope="module")
def recorded() -> dict[str, tuple[str, np.ndarray]]:
    assert goldens.GOLDENS.is_file(), f"{goldens.GOLDENS} is missing; on a GPU run: {RECORD}"
    assert goldens.GOLDENS.stat().st_size < 400_000
    return goldens.read(goldens.GOLDENS)


def test_only_what_is_missing_or_has_changed_is_run(
    recorded: dict[str, tuple[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = dict(list(goldens.all_cases().items())[:5])
    gone, changed, *kept = cases
    monkeypatch.setattr(goldens, "all_cases", lambda: cases)
    held = {name: recorded[name][1] for name in kept}
    with monkeypatch.context() as old:
        old.setattr(
            goldens, "all_cases", lambda: cases | {changed: cases[gone], "no more": cases[gone]}
        )
        values = recorded[gone][1]
        goldens.write(tmp_path / "some.npz", held | {changed: values, "no more": values})
    ran = goldens.record(tmp_path / "some.npz", goldens.on_virtual, missing=True)
    assert ran == [gone, changed]
    now = goldens.read(tmp_path / "some.npz")
    assert {name: case.fingerprint for name, case in cases.items()} == {
        n: f for n, (f, _) in now.items()
    }
    assert all(now[name][1].tobytes() == held[name].tobytes() for name in kept)
    assert goldens.record(tmp_path / "some.npz", goldens.on_virtual) == list(cases)


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
