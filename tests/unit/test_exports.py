"""The public face: sorted, complete, documented, and free of CUDA until a driver is opened."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyferrum_kv
from pyferrum_kv import errors

PUBLIC = (
    "pyferrum_kv",
    "pyferrum_kv.int8_kv",
    "pyferrum_kv.half_kv",
    "pyferrum_kv.reference",
    "pyferrum_kv.driver",
)


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_sorted_and_every_name_exists(module: str) -> None:
    public = importlib.import_module(module)
    assert list(public.__all__) == sorted(public.__all__)
    for name in public.__all__:
        assert hasattr(public, name), name


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_class_and_function_has_a_docstring_of_its_own(module: str) -> None:
    public = importlib.import_module(module)
    for name in public.__all__:
        value = getattr(public, name)
        if inspect.isclass(value):
            assert vars(value).get("__doc__"), name
        elif inspect.isfunction(value):
            assert value.__doc__, name


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__)) | {"FerrumError"}
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.FerrumError)
    }
    assert drawn == defined
    assert defined <= set(pyferrum_kv.__all__)


def test_importing_everything_opens_no_driver() -> None:
    modules = ", ".join((*PUBLIC, "pyferrum_kv.cli"))
    code = f"import sys, {modules}; print([m for m in sys.modules if m.startswith('cuda.')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_version_is_the_one_of_the_project_file() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'\nversion = "{pyferrum_kv.__version__}"\n' in project
