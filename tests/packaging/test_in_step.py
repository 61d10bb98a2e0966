"""The committed bundle is of the committed sources: hashes alone, so no NVRTC is asked."""

from __future__ import annotations

from pathlib import Path

from pyferrum_kv.build import check_sources

ROOT = Path(__file__).parents[2]


def test_ptx_was_built_from_these_sources() -> None:
    sources = sorted((ROOT / "kernels").glob("*.cu"))
    assert sources
    assert check_sources(ROOT / "ptx", sources) == []
