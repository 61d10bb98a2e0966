"""Nothing public is missing from the documents: commands, options, names, files."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from pyferrum_kv.cli import make_parser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PUBLIC = [
    (module, name)
    for module in (
        "pyferrum_kv",
        "pyferrum_kv.driver",
        "pyferrum_kv.int8_kv",
        "pyferrum_kv.half_kv",
        "pyferrum_kv.virtual",
        "pyferrum_kv.testing",
    )
    for name in importlib.import_module(module).__all__
]


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every identifier in the documents."""
    return {word for path in DOCUMENTS for word in re.findall(r"[A-Za-z_]\w*", path.read_text())}


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_is_in_a_document(module: str, name: str, words: set[str]) -> None:
    assert name in words, f"{module}.{name} is in no document"


def commands() -> dict[str, argparse.ArgumentParser]:
    (choice,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(choice.choices)


@pytest.mark.parametrize("command", commands())
def test_every_command_and_option_is_in_the_manual(command: str) -> None:
    manual = (ROOT / "docs" / "cli.md").read_text()
    section = manual.split(f"## pyferrum-kv {command}\n")[1].split("\n## ")[0]
    for action in commands()[command]._actions:
        for option in action.option_strings or [action.metavar]:
            assert option in ("-h", "--help") or f"{option}" in section, option


@pytest.mark.parametrize("folder", ["driver", "int8_kv", "half_kv", "bundle", "build", "cli", "."])
def test_every_file_is_in_the_layout(folder: str) -> None:
    layout = (ROOT / "docs" / "layout.md").read_text()
    for path in (ROOT / "pyferrum_kv" / folder).glob("*.py"):
        if not path.stem.startswith("__"):
            assert re.search(rf"\b{path.stem}\b", layout), f"{folder}/{path.name} is not in it"


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index, path.name
