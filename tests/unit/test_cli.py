"""The command line as a whole: exit codes, errors in words, JSON that is JSON, output to a pipe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyferrum_kv import __version__
from pyferrum_kv.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_driver_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYFERRUM_KV_DRIVER", raising=False)


def test_no_command_prints_help_and_exits_2(capsys: Capture) -> None:
    assert main([]) == 2
    assert "doctor" in capsys.readouterr().err


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["--version"])
    assert leave.value.code == 0
    assert capsys.readouterr().out == f"pyferrum-kv {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["heal"], "invalid choice: 'heal'"),
        (["doctor", "--driver", "metal"], "--driver"),
        (["demo", "--seed", "x"], "--seed"),
        (["bundle", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_arguments_exit_2_and_name_what_is_wrong(
    argv: list[str], said: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as leave:
        main(argv)
    assert leave.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["doctor", "bundle", "demo"])
def test_help_names_every_option_and_the_exit_codes(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "--json" in text
    assert "xits" in text


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one module, quick to verify: append alone, out of the real one."""
    whole, folder = Path(__file__).parents[2] / "ptx", tmp_path_factory.mktemp("bundle")
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["modules"] = [m for m in manifest["modules"] if m["name"] == "int8_kv_cache_append"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for file in whole.glob("int8_kv_cache_append.*.ptx"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_bundle_lists_entries_and_says_that_the_files_are_sound(
    small: Path, capsys: Capture
) -> None:
    assert main(["bundle", "--path", str(small)]) == 0
    text = capsys.readouterr().out
    assert "2 PTX files" in text
    assert "every hash, entry and parameter as in the manifest" in text
    assert "CUDA 12.0 (R525) or newer" in text
    assert "  int8_kv_cache_append_bf16 " in text


@pytest.mark.slow
def test_the_bundle_of_this_package_is_sound(capsys: Capture) -> None:
    assert main(["bundle"]) == 0
    assert "  paged_decode_attention_int8_bf16 " in capsys.readouterr().out


def test_bundle_prints_the_parameters_of_an_entry(capsys: Capture) -> None:
    assert main(["bundle", "int8_kv_cache_append"]) == 0
    text = capsys.readouterr().out
    assert "const f16*  k " in text
    assert "[num_tokens, num_kv_heads, head_dim]" in text
    assert "head_dim 8 to 256 in steps of 8" in text


def test_bundle_with_an_unknown_entry_says_which_is_meant(capsys: Capture) -> None:
    assert main(["bundle", "int8_kv_cache_appendix"]) == 1
    assert "did you mean int8_kv_cache_append" in capsys.readouterr().err


def test_bundle_where_there_is_none_says_so(tmp_path: Path, capsys: Capture) -> None:
    assert main(["bundle", "--path", str(tmp_path)]) == 1
    assert "no manifest.json" in capsys.readouterr().err


def test_bundle_with_an_altered_file_exits_1_and_names_it(
    small: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = shutil.copytree(small, tmp_path / "altered")
    altered = folder / "int8_kv_cache_append.sm_80.ptx"
    altered.write_bytes(altered.read_bytes().replace(b"add.s32", b"sub.s32", 1))
    assert main(["bundle", "--path", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "FAIL  files" in text
    assert "int8_kv_cache_append.sm_80.ptx: sha256" in text


def test_bundle_as_json_is_the_manifest_and_its_problems(small: Path, capsys: Capture) -> None:
    assert main(["bundle", "--json", "--path", str(small)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["problems"] == []
    assert [module["name"] for module in document["modules"]] == ["int8_kv_cache_append"]


@pytest.mark.slow
def test_a_reader_that_leaves_early_sees_no_traceback(small: Path) -> None:
    shell = f"{sys.executable} -m pyferrum_kv bundle --path {small} | head -n 1"
    done = subprocess.run(["bash", "-c", shell], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("PTX bundle")
    assert done.stderr == ""
