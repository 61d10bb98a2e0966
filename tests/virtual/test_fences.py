"""The fences of the shipped kernels, deleted in turn: the one before an atomic is missed."""

from __future__ import annotations

import re

import pytest
from virtual.mutants import Mutant, entry_text, families, run

from pyferrum_kv import CudaContext
from pyferrum_kv.virtual import VirtualDriver

FENCE = re.compile(r"^\s*(?:membar|fence)\b[^;]*;", re.MULTILINE)
FAMILIES = {entry: (ptx, shape) for entry, ptx, shape in families()}
ENTRIES = ("paged_decode_attention_int8", "paged_decode_attention_int8_d128")


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_decode_without_its_releasing_fence_is_a_race_between_ctas(entry: str) -> None:
    ptx, shape = FAMILIES[entry]
    text = entry_text(ptx, entry)
    found: dict[str, set[str]] = {}
    for number, fence in enumerate([None, *FENCE.finditer(text)]):
        harmed = text if fence is None else text[: fence.start()] + text[fence.end() :]
        driver = VirtualDriver(on_report="collect")
        with CudaContext.new(0, driver=driver) as context:
            run(context, Mutant(entry, f"fence {number}", harmed), shape)
        context.close()
        found["whole" if fence is None else f"without {number}"] = {r.kind for r in driver.reports}
    assert found.pop("whole") == set()
    assert {"cta_race"} in found.values(), found
    assert all(kinds <= {"cta_race"} for kinds in found.values()), found
