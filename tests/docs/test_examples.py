"""The examples run, here on the virtual device and on hardware where there is some."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyferrum_kv import CudaContext, device_count
from pyferrum_kv.errors import DriverNotFound

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.fixture(params=["virtual", pytest.param("cuda", marks=pytest.mark.gpu)])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name: str = request.param
    if name == "cuda":
        request.getfixturevalue("device")
    try:
        device_count(driver=name)
    except DriverNotFound as absent:
        if name == "cuda":
            pytest.skip(f"no NVIDIA driver: {absent}")
        raise
    monkeypatch.setenv("PYFERRUM_KV_DRIVER", name)
    yield name
    CudaContext.new(0).close()  # what an example leaves behind, a fault included, ends with it


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_says_what_it_did(
    path: Path, driver: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_examples_are_numbered_without_a_gap() -> None:
    numbers = [int(re.match(r"(\d\d)_\w+", path.stem)[1]) for path in EXAMPLES]  # type: ignore[index]
    assert numbers == list(range(1, len(EXAMPLES) + 1))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_opens_with_a_docstring_and_asserts(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""')
    assert "assert" in text
    assert len(text.splitlines()) <= 70
