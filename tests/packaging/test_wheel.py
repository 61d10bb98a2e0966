"""What a wheel, an editable install and an sdist carry; built in this process by hatchling."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pyferrum_kv.bundle import PtxBundle

WHY = "these tests build with hatchling: pip install '.[test]'"
SdistBuilder = pytest.importorskip("hatchling.builders.sdist", reason=WHY).SdistBuilder
WheelBuilder = pytest.importorskip("hatchling.builders.wheel", reason=WHY).WheelBuilder

ROOT = Path(__file__).parents[2]
BUNDLE = sorted(path.name for path in (ROOT / "ptx").iterdir())

FIND = """
import sys
from pyferrum_kv.bundle import PtxBundle, bundle_files
bundle = PtxBundle.default()
assert bundle.verify() == [], bundle.verify()
print(bundle_files(), len(bundle.entries))
"""


def find_bundle(place: Path, cwd: Path) -> str:
    """Open the default bundle in a fresh interpreter that sees the package at `place` only."""
    path = [str(place), *(entry for entry in sys.path if "site-packages" in entry)]
    code = f"import sys; sys.path[:0] = {path!r}; {FIND.strip()}".replace("; import sys\n", "\n")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(builder: WheelBuilder | SdistBuilder, folder: Path, *versions: str) -> Path:
    return Path(next(builder.build(directory=str(folder), versions=list(versions))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(WheelBuilder(str(ROOT)), tmp_path_factory.mktemp("wheel"), "standard")


def test_the_wheel_carries_package_and_bundle_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(n.removeprefix("pyferrum_kv/ptx/") for n in names if "/ptx/" in n) == BUNDLE
    assert "pyferrum_kv/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pyferrum_kv"}
    assert not [name for name in names if "/ptx/" in name and name.endswith(".py")]


def test_the_bundle_is_found_in_the_wheel_used_as_a_zip(wheel: Path, tmp_path: Path) -> None:
    assert f"{wheel}/pyferrum_kv/ptx" in find_bundle(wheel, tmp_path)


def test_the_bundle_is_found_in_the_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert str(site / "pyferrum_kv" / "ptx") in find_bundle(site, tmp_path)


def test_the_bundle_is_found_in_a_bare_checkout(tmp_path: Path) -> None:
    assert str(ROOT / "ptx") in find_bundle(ROOT, tmp_path)


def test_an_editable_install_is_one_path_file(tmp_path: Path) -> None:
    editable = built(WheelBuilder(str(ROOT)), tmp_path, "editable")
    archive = zipfile.ZipFile(editable)
    files = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert len(files) == 1
    assert files[0].endswith(".pth")
    assert archive.read(files[0]).decode().split() == [str(ROOT)]


def test_a_wheel_made_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = built(SdistBuilder(str(ROOT)), tmp_path, "standard")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        top = names[0].split("/")[0]
        for needed in ("build_ptx.py", "kernels/types.cuh", "tests/conftest.py", "README.md"):
            assert f"{top}/{needed}" in names
        archive.extractall(tmp_path)
    again = built(WheelBuilder(str(tmp_path / top)), tmp_path / "again", "standard")
    first, second = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    assert sorted(first.namelist()) == sorted(second.namelist())
    for name in first.namelist():
        if not name.endswith("RECORD"):
            assert first.read(name) == second.read(name), name


def test_a_stray_ptx_folder_beside_the_package_is_not_taken(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "pyferrum_kv" / "ptx").rename(site / "ptx")
    with pytest.raises(AssertionError, match=r"BundleNotFound: no manifest\.json in"):
        find_bundle(site, tmp_path)


def test_no_line_of_gitignore_hides_the_bundle() -> None:
    """A wheel would then carry the manifest and no PTX, in silence."""
    hidden = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert not [line for line in hidden if "ptx" in line]


def test_the_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 3_000_000


def test_every_module_has_its_files_in_ptx() -> None:
    files = {v.file for m in PtxBundle.open(ROOT / "ptx").modules.values() for v in m.variants}
    assert sorted({*files, "manifest.json"}) == BUNDLE
