"""The benchmarks of one table: what they print and keep, from rows that were not measured here."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from pyferrum_kv import CudaContext

# No wheel has the benchmarks. At the end of the path, so that an installed pyferrum_kv comes first.
sys.path.append(str(Path(__file__).parents[2]))
machine = importlib.import_module("benchmarks.machine")

COPIES = {"copy kernel": 2.0, "cuMemcpyDtoDAsync": 4.0}
APPEND = {
    "num_tokens": 64,
    "bytes_moved": 1000,
    "us": {"int8_kv_cache_append": 2.5, **COPIES},
    "gb_per_s": {"int8_kv_cache_append": 400.0, "copy kernel": 500.0, "cuMemcpyDtoDAsync": 250.0},
}
ROTARY = {"num_tokens": 64, "us": {"append": 1.0, "half-split": 4.0, "copy": 3.0}}
BLOCKS = {"what": "copy_blocks", "size": 8, "how": "ours", "us": 2.0, "bytes_moved": 4000}
TABLES = {
    "bench_append": (APPEND, ["64", "2.5", "80"]),
    "bench_rotary": (ROTARY, ["half-split", "4.00", "75%"]),
    "bench_blocks": (BLOCKS, ["copy_blocks", "2.00 us", "2.0 GB/s"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_printed_and_kept(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    script = importlib.import_module(f"benchmarks.{name}")
    row, words = TABLES[name]
    monkeypatch.setattr(machine, "open_gpu", lambda: CudaContext.new(0, driver="virtual"))
    monkeypatch.setattr(script, "measure", lambda _: [row])
    monkeypatch.setattr(sys, "argv", [name, "--json", str(tmp_path / "out.json")])
    assert script.main() == 0
    printed = capsys.readouterr().out
    assert "pyferrum virtual" in printed
    assert all(word in printed for word in words), printed
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["rows"] == [row]
    assert kept["rounds"] == script.ROUNDS
    assert "virtual" in kept["machine"]["device"]


@pytest.mark.parametrize("name", TABLES)
def test_the_virtual_device_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setenv("PYFERRUM_KV_DRIVER", "virtual")
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit, match="unset PYFERRUM_KV_DRIVER"):
        script.main()
