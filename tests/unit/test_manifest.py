"""The manifest: what is written is read, what is newer is kept, what is damaged is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.bundles import SAXPY, saxpy_manifest

from pyferrum_kv.bundle.manifest import MAX_MANIFEST_BYTES, read_manifest
from pyferrum_kv.bundle.write import manifest_bytes
from pyferrum_kv.errors import BundleCorrupt

RAW = manifest_bytes(saxpy_manifest())


def changed(change: Callable[[Any], object]) -> bytes:
    document = json.loads(RAW)
    change(document)
    return json.dumps(document).encode()


def test_what_is_written_is_read() -> None:
    manifest = read_manifest(RAW)
    assert manifest == saxpy_manifest()
    assert manifest.modules[0].entries == (SAXPY,)
    assert manifest_bytes(manifest) == RAW


def test_the_page_about_the_format_shows_what_is_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text(encoding="utf-8")
    shown = page.split("```json\n")[1].split("```")[0].encode()
    assert read_manifest(shown).modules[0].entries[0].entry == "saxpy"
    assert keys(json.loads(shown)) == keys(json.loads(RAW)) - {"step", "min", "max"}
    for key in keys(json.loads(RAW)):
        assert f'"{key}"' in page or f"`{key}`" in page, key


def keys(value: object) -> set[str]:
    """Every key of a JSON document."""
    if isinstance(value, dict):
        return set(value).union(*(keys(item) for item in value.values()))
    return set().union(*(keys(item) for item in value)) if isinstance(value, list) else set()


def test_one_parameter_takes_one_line() -> None:
    lines = RAW.decode().splitlines()
    assert sum('"kind"' in line for line in lines) == len(SAXPY.params)


def test_fields_of_a_later_minor_version_are_kept() -> None:
    def newer(document: Any) -> None:
        document["format_version"] = "1.7"
        document["signed_by"] = {"key": [1, 2]}
        document["modules"][0]["entries"][0]["params"][0]["bound"] = "num_elements"
        document["modules"][0]["variants"].append({"format": "cubin", "file": "x.cubin"})

    raw = changed(newer)
    manifest = read_manifest(raw)
    assert manifest.format_version == (1, 7)
    assert [v.target for v in manifest.modules[0].variants] == ["sm_80", "sm_90"]
    assert json.loads(manifest_bytes(manifest)) == json.loads(raw)


def at(*path: str | int) -> Callable[[Any], Any]:
    def walk(document: Any) -> Any:
        for step in path:
            document = document[step]
        return document

    return walk


MODULE = at("modules", 0)
ENTRY = at("modules", 0, "entries", 0)
PARAM = at("modules", 0, "entries", 0, "params", 1)
VARIANT = at("modules", 0, "variants", 0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d.pop("format_version"), "format_version is missing"),
        (lambda d: d.update(format_version="2.0"), "format_version is '2.0'; .* update"),
        (lambda d: d.update(format_version="0.9"), "format_version is '0.9'; .* rebuild"),
        (lambda d: d.update(format_version=1), "format_version is 1; wanted"),
        (lambda d: d.update(modules={}), "modules is {}; wanted a list"),
        (lambda d: d.update(modules=[3]), r"modules\[0\] is 3; wanted an object"),
        (lambda d: MODULE(d).update(name="../x"), r"modules\[0\].name is '../x'"),
        (lambda d: d["modules"].append(MODULE(d)), "module 'saxpy' is given twice"),
        (lambda d: MODULE(d)["entries"].append(ENTRY(d)), "entry 'saxpy' is given twice"),
        (lambda d: ENTRY(d).update(name="a b"), r"entries\[0\].name is 'a b'"),
        (lambda d: PARAM(d).update(name="x"), r"parameter 'x' is given twice"),
        (lambda d: PARAM(d).update(kind="union"), r"params\[1\].kind is 'union'; wanted one of"),
        (lambda d: PARAM(d).update(size_bytes=4), r"params\[1\].size_bytes is 4; wanted 8"),
        (lambda d: PARAM(d).update(offset=4), r"params\[1\].offset is 4; wanted 8 or more"),
        (lambda d: PARAM(d).update(offset=40000), r"params\[1\].offset is 40000"),
        (lambda d: PARAM(d).update(offset=True), r"params\[1\].offset is True; wanted an integer"),
        (lambda d: PARAM(d).update(offset=-8), r"params\[1\].offset is -8"),
        (lambda d: PARAM(d).update(is_const=1), r"params\[1\].is_const is 1; wanted true or false"),
        (lambda d: ENTRY(d)["limits"].update(max_threads="9"), "limits.max_threads is '9'"),
        (lambda d: ENTRY(d)["limits"].update(required_threads=[1]), "limits.required_threads is"),
        (
            lambda d: VARIANT(d).update(file="../saxpy.ptx"),
            r"file is '../saxpy.ptx'; wanted the name",
        ),
        (lambda d: VARIANT(d).update(file="/etc/passwd"), r"file is '/etc/passwd'"),
        (lambda d: VARIANT(d).update(file=".."), r"file is '..'"),
        (
            lambda d: VARIANT(d).update(file="saxpy.sm_90.ptx"),
            "file 'saxpy.sm_90.ptx' is given twice",
        ),
        (lambda d: VARIANT(d).update(target="sm_90"), "target 'sm_90' is given twice"),
        (lambda d: VARIANT(d).update(target="gfx942"), "target is 'gfx942'"),
        (lambda d: VARIANT(d).update(sha256="ABC"), "sha256 is 'ABC'; wanted 64"),
        (
            lambda d: VARIANT(d).update(size_bytes=1 << 30),
            "size_bytes is 1073741824; wanted at most",
        ),
        (lambda d: VARIANT(d).update(size_bytes=1 << 70), "size_bytes is 1180591620717411303424"),
        (lambda d: VARIANT(d).update(entries=["other"]), r"entries is \('other',\); wanted names"),
        (lambda d: VARIANT(d).update(ptx_version="eight"), "ptx_version is"),
        (lambda d: VARIANT(d)["usage"][0].pop("registers"), r"usage\[0\].registers is missing"),
    ],
)
def test_damage_is_named_by_file_and_field(change: Callable[[Any], object], field: str) -> None:
    with pytest.raises(BundleCorrupt, match=f"^manifest.json: .*{field}"):
        read_manifest(changed(change))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not readable as JSON"),
        (RAW[: len(RAW) // 2], "not readable as JSON"),
        (b"\xff\xfe\x00", "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable as JSON"),
        (b'{"format_version": NaN}', "NaN is no number"),
        (b'{"format_version": "1.0", "format_version": "1.0"}', "'format_version' is given twice"),
        (b"[]", "the whole is \\[\\]; wanted an object"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "is larger than"),
    ],
)
def test_what_is_no_manifest_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BundleCorrupt, match=f"^manifest.json: .*{message}"):
        read_manifest(raw)


def test_a_message_stays_short_whatever_the_value() -> None:
    with pytest.raises(BundleCorrupt) as caught:
        read_manifest(changed(lambda d: VARIANT(d).update(sha256="x" * 100_000)))
    assert len(str(caught.value)) < 300
