"""Who may import whom: rows of the package, creation order inside driver/, CUDA at one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pyferrum_kv

PACKAGE = Path(pyferrum_kv.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

# A part imports from lower rows and from itself; never sideways, never up.
ROWS = {
    **dict.fromkeys(("errors", "dtypes", "signature", "ptx_reader"), 0),
    **dict.fromkeys(("driver", "bundle", "nvrtc"), 1),
    **dict.fromkeys(("loader", "virtual", "build", "reference"), 2),
    "int8_kv": 3,
    "half_kv": 4,
    "__init__": 4,  # the public names
    **dict.fromkeys(("cli", "testing", "pytest_plugin"), 5),
    "__main__": 6,
}
ONLY = {  # narrower than the row
    "reference": set(),
    "virtual": {"ptx_reader", "signature", "errors"},
    "testing": {"driver", "virtual", "dtypes", "errors", "ptx_reader", "signature"},
}
ROW_0 = {"signature": {"errors"}, "ptx_reader": {"errors", "signature"}}
CUDA = {"driver/api.py", "nvrtc.py"}  # and virtual/, which nothing imports before it is asked for
LATE = {"pytest_plugin.py"}  # every pytest run loads it, so it opens nothing before it is asked
TABLES = {"virtual/emit.py"}  # one row an opcode


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Return (module, is it inside a function) for each import that runs."""

    def walk(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child, late)
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (_imported(node.module or "", alias.name, late) for alias in node.names)
        inside = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return tuple(walk(ast.parse(path.read_text(encoding="utf-8")), late=False))


def _imported(module: str, name: str, late: bool) -> tuple[str, bool]:
    """`from package import submodule` names the submodule."""
    inside = PACKAGE.parent / module.replace(".", "/")
    is_module = (inside / f"{name}.py").is_file() or (inside / name).is_dir()
    return (f"{module}.{name}" if is_module else module), late


def part(dotted: str) -> str:
    """pyferrum_kv.driver.api -> driver; pyferrum_kv itself -> __init__."""
    return [*dotted.split("."), "__init__"][1]


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(
        "from typing import TYPE_CHECKING\n"
        "from pyferrum_kv import errors\n"
        "if TYPE_CHECKING:\n    import pyferrum_kv.cli\n"
        "def f():\n    import cuda.bindings.driver\n"
    )
    assert imports(sample) == (
        ("typing", False),
        ("pyferrum_kv.errors", False),
        ("cuda.bindings.driver", True),
    )


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_down(name: str) -> None:
    own = part("pyferrum_kv." + name.removesuffix(".py").replace("/", "."))
    assert own in ROWS, f"{name}: no row for {own}; give it one here and in docs/layout.md"
    for module, _ in imports(PACKAGE / name):
        if not module.startswith("pyferrum_kv") or (other := part(module)) == own:
            continue
        allowed = ONLY.get(own, ROW_0.get(own, {o for o, row in ROWS.items() if row < ROWS[own]}))
        assert other in allowed, f"{name} imports {module}; {own} may import {sorted(allowed)}"


@pytest.mark.parametrize("name", NAMES)
def test_cuda_is_imported_at_few_doors_and_late(name: str) -> None:
    for module, late in imports(PACKAGE / name):
        if module == "cuda" or module.startswith("cuda."):
            assert name in CUDA or name.startswith("virtual/"), f"{name} imports {module}"
            assert late or name.startswith("virtual/"), f"{name}: import {module} in a function"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_imported_inside_a_function(name: str) -> None:
    late = [module for module, inside in imports(PACKAGE / name) if inside]
    late = [module for module in late if not module.startswith("cuda")]
    assert not late or name in LATE, f"{name} imports {late} inside a function"


def dotted(name: str) -> str:
    """driver/api.py -> pyferrum_kv.driver.api; driver/__init__.py -> pyferrum_kv.driver."""
    path = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"pyferrum_kv.{path}"


def test_no_module_imports_itself_by_a_detour() -> None:
    edges = {dotted(name): {module for module, _ in imports(PACKAGE / name)} for name in NAMES}
    free: set[str] = set()
    while left := edges.keys() - free:
        ready = {name for name in left if edges[name] & edges.keys() <= free}
        assert ready, f"a cycle among {sorted(left)}"
        free |= ready


@pytest.mark.parametrize(
    ("made_by", "makes"),
    [
        ("context", {"stream", "module", "event", "pinned", "unified"}),
        ("stream", {"event", "launch", "graph", "slices"}),
        ("module", {"function"}),
    ],
)
def test_inside_driver_imports_follow_creation(made_by: str, makes: set[str]) -> None:
    for name in makes:
        for module, _ in imports(PACKAGE / "driver" / f"{name}.py"):
            assert module != f"pyferrum_kv.driver.{made_by}", f"{name} is made by {made_by}"


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_longer_than_a_reader_likes(name: str) -> None:
    lines = (PACKAGE / name).read_text(encoding="utf-8").count("\n")
    assert lines <= 300 or name in TABLES, f"{name} has {lines} lines; split it by subject"
