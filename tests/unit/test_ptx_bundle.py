"""PtxBundle: what is read is what the manifest promised, or is refused by name."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from helpers.bundles import SAXPY, SAXPY_PTX, write_saxpy_bundle

from pyferrum_kv.bundle import PtxBundle, bundle_files
from pyferrum_kv.bundle.manifest import read_manifest
from pyferrum_kv.errors import BundleCorrupt, BundleNotFound, EntryNotFound
from pyferrum_kv.ptx_reader import PtxInfo, PtxSyntaxError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_saxpy_bundle(tmp_path / "bundle")


def test_a_bundle_gives_signature_variants_and_text(folder: Path) -> None:
    bundle = PtxBundle.open(str(folder))
    assert bundle.signature("saxpy") == SAXPY
    assert [v.target for v in bundle.variants("saxpy")] == ["sm_80", "sm_90"]
    assert bundle.entries == {"saxpy": bundle.variants("saxpy")}
    assert list(bundle.modules) == ["saxpy"]
    assert bundle.ptx("saxpy", "sm_90") == SAXPY_PTX.format(target="sm_90").encode()
    assert bundle.verify() == []
    assert repr(bundle).endswith("bundle: 1 modules, 1 entries>")


def test_an_entry_is_for_newer_devices_only_beside_one_that_is_not(folder: Path) -> None:
    bundle = PtxBundle.open(folder)
    assert not bundle.is_newer_only("saxpy")
    bundle.entries["saxpy"] = bundle.variants("saxpy")[1:]  # all that there is is for sm_90
    assert not bundle.is_newer_only("saxpy")
    shipped = PtxBundle.default()
    newer = {entry for entry in shipped.entries if shipped.is_newer_only(entry)}
    assert newer == {entry for entry in shipped.entries if "_tma_" in entry or "_cluster_" in entry}


def test_a_file_is_read_once(folder: Path) -> None:
    bundle = PtxBundle.open(folder)
    first = bundle.ptx("saxpy", "sm_80")
    (folder / "saxpy.sm_80.ptx").unlink()
    assert bundle.ptx("saxpy", "sm_80") is first


def test_reading_a_file_trusts_its_hash_and_leaves_the_text_to_verify(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str) -> PtxInfo:
        raise PtxSyntaxError(1, "was read")

    monkeypatch.setattr("pyferrum_kv.bundle.ptx_bundle.read_ptx", refuse)
    bundle = PtxBundle.open(folder)
    assert bundle.ptx("saxpy", "sm_90")
    assert ["was read" in problem for problem in bundle.verify()] == [True, True]


def test_a_bundle_inside_a_zip(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in folder.iterdir():
            zipped.write(file, f"ptx/{file.name}")
    bundle = PtxBundle.open(zipfile.Path(archive, "ptx/"))
    assert bundle.verify() == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-5], "size_bytes in the manifest is .*, the file is .* bytes"),
        (lambda text: text + b"\n", "size_bytes in the manifest is .*, the file is longer"),
        (lambda text: text.replace(b"ret;", b"trap"), "sha256 in the manifest is"),
        (lambda text: None, "cannot be read"),
    ],
)
def test_damage_is_refused_at_load_with_the_file_named(folder: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    file = folder / "saxpy.sm_90.ptx"
    damaged = damage(file.read_bytes())
    if damaged is None:
        file.unlink()
    else:
        file.write_bytes(damaged)
    bundle = PtxBundle.open(folder)
    with pytest.raises(BundleCorrupt, match=rf"^saxpy\.sm_90\.ptx: {message}"):
        bundle.ptx("saxpy", "sm_90")
    assert len(bundle.verify()) == 1
    assert bundle.ptx("saxpy", "sm_80")


@pytest.mark.parametrize(
    ("said", "instead", "message"),
    [
        ('"ptx_version": "8.0"', '"ptx_version": "8.1"', "ptx_version is"),
        ('"kind": "float"', '"kind": "uint"', "params of saxpy are"),
        ('"size_bytes": 4, "offset": 20', '"size_bytes": 8, "offset": 24', "params of saxpy are"),
        ('"target": "sm_80"', '"target": "sm_86"', "target is sm_80"),
    ],
)
def test_verify_holds_the_manifest_against_the_text(
    folder: Path, said: str, instead: str, message: str
) -> None:
    manifest = folder / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    assert said in text
    manifest.write_text(text.replace(said, instead))
    assert message in PtxBundle.open(folder).verify()[0]


def test_a_missing_bundle_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match=str(tmp_path)):
        PtxBundle.open(tmp_path)
    with pytest.raises(BundleNotFound):
        PtxBundle.open(tmp_path / "nowhere")


def test_unknown_names_are_answered_with_the_known(folder: Path) -> None:
    bundle = PtxBundle.open(folder)
    with pytest.raises(EntryNotFound, match=r"no entry 'saxpi'.*it has saxpy; did you mean saxpy"):
        bundle.signature("saxpi")
    with pytest.raises(EntryNotFound, match="no entry 'saxpi'"):
        bundle.variants("saxpi")
    with pytest.raises(EntryNotFound, match="no module 'gemm'; the bundle has saxpy"):
        bundle.ptx("gemm", "sm_80")
    with pytest.raises(EntryNotFound, match="module saxpy has no sm_70; it has sm_80, sm_90"):
        bundle.ptx("saxpy", "sm_70")


def test_the_bundle_of_this_package_is_found_and_sound() -> None:
    bundle = PtxBundle.default()
    assert bundle is PtxBundle.default()
    assert bundle.manifest == read_manifest((bundle_files() / "manifest.json").read_bytes())
    assert bundle.verify() == []
    assert {"int8_kv_cache_append", "paged_decode_attention_int8"} <= bundle.entries.keys()


def test_the_bundle_of_this_package_loads_on_every_cuda_12_driver() -> None:
    for module in PtxBundle.default().modules.values():
        for variant in module.variants:
            assert variant.ptx_version <= (8, 0), variant.file
            assert variant.min_driver <= (12, 0), variant.file
