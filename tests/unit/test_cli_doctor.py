"""The findings of the doctor: without a driver, on the virtual device, and what it exits with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.cli.diagnosis import (
    Diagnosis,
    diagnose,
    kernel_module_in_words,
    look_at_installation,
)
from pyferrum_kv.cli.doctor import exit_code, show
from pyferrum_kv.cli.terminal import Terminal
from pyferrum_kv.errors import BundleNotFound


class NoDriver:
    """What the bindings do on a machine without libcuda."""

    def cuInit(self, flags: int) -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")


def append_only() -> PtxBundle:
    """The real bundle with one small module, quick to verify and to load."""
    whole = PtxBundle.default()
    manifest = whole.manifest
    modules = tuple(m for m in manifest.modules if m.name == "int8_kv_cache_append")
    return PtxBundle(whole.folder, type(manifest)(manifest.format_version, modules, {}))


def findings(found: Diagnosis, title: str) -> dict[str, tuple[str, str]]:
    section = next(s for s in found.sections if s.title.startswith(title))
    return {what: (mark, finding) for mark, what, finding in section.findings}


def test_without_a_driver_everything_else_is_still_looked_at() -> None:
    found = diagnose(NoDriver(), append_only)
    assert findings(found, "Driver")["driver"][0] == "bad"
    assert "libcuda.so.1" in findings(found, "Driver")["driver"][1]
    assert findings(found, "Bundle")["files"][0] == "ok"
    assert found.conclusion.startswith("no GPU can be used here; the virtual device")
    assert exit_code(found) == 3


def test_without_a_bundle_it_says_what_to_run() -> None:
    def missing() -> PtxBundle:
        raise BundleNotFound("no manifest.json; reinstall pyferrum-kv")

    found = diagnose(NoDriver(), missing)
    assert findings(found, "Bundle")["manifest"][0] == "bad"
    assert "python build_ptx.py" in found.conclusion
    assert exit_code(found) == 1


def test_on_the_virtual_device_it_loads_the_bundle_and_says_what_it_is() -> None:
    found = diagnose("virtual", append_only)
    assert findings(found, "Driver")["virtual device"][0] == "note"
    assert findings(found, "Device 0")["loading"] == ("ok", "2 of 2 entries are loaded")
    assert (found.devices_found, found.devices_that_work) == (1, 1)
    assert exit_code(found) == 0


@pytest.mark.slow
def test_what_is_for_other_devices_is_counted_and_nothing_to_worry_about() -> None:
    found = diagnose("virtual", PtxBundle.default)
    entries = PtxBundle.default().entries
    newer = [entry for entry in entries if PtxBundle.default().is_newer_only(entry)]
    assert findings(found, "Device 0")["loading"] == (
        "ok",
        f"{len(entries) - len(newer)} of {len(entries)} entries are loaded\n"
        f"{len(newer)} are for other devices or drivers, the first: {newer[0]}",
    )
    assert exit_code(found) == 0


def test_it_shows_the_same_in_words_and_as_json() -> None:
    found = diagnose(NoDriver(), append_only)
    words, document = io.StringIO(), io.StringIO()
    show(found, Terminal(words), as_json=False)
    show(found, Terminal(document), as_json=True)
    assert words.getvalue().endswith(f"So: {found.conclusion}\n")
    titles = [section["title"] for section in json.loads(document.getvalue())["sections"]]
    assert titles == ["Installation", "Bundle", "Driver"]
    assert all(f"{title}\n" in words.getvalue() for title in titles)


def test_a_kernel_module_without_libcuda_points_at_the_container(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\n")
    assert kernel_module_in_words(version).startswith("580.95.05 is loaded; in a container")
    assert kernel_module_in_words(tmp_path / "none").startswith("not loaded")


def test_variables_that_change_what_happens_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFERRUM_KV_DRIVER", "virtual")
    assert ("note", "PYFERRUM_KV_DRIVER", "is set to 'virtual'") in look_at_installation().findings


@pytest.mark.parametrize(
    ("sound", "found", "working", "code"),
    [(True, 2, 2, 0), (True, 2, 1, 1), (True, 0, 0, 3), (False, 2, 0, 1), (False, 0, 0, 1)],
)
def test_exit_codes(sound: bool, found: int, working: int, code: int) -> None:
    assert exit_code(Diagnosis([], sound, found, working)) == code
