"""Memory orders of the shipped kernels, weakened in turn: what no longer releases is missed."""

from __future__ import annotations

import re

import pytest
from virtual.mutants import Mutant, entry_text, families, run

from pyferrum_kv import CudaContext
from pyferrum_kv.virtual import VirtualDriver

FENCE = re.compile(r"^\s*(?:membar|fence)\b[^;]*;", re.MULTILINE)
ATOMIC = re.compile(r"\batom\.acq_rel(?=\.gpu\.)")
FAMILIES = {entry: (ptx, shape) for entry, ptx, shape in families()}
GENERAL = "paged_decode_attention_int8"
COUNTING = sorted(FAMILIES.keys() - {GENERAL})


def kinds_reported(entry: str, text: str) -> set[str]:
    """What the sanitiser says of a text of the entry."""
    driver = VirtualDriver(on_report="collect")
    with CudaContext.new(0, driver=driver) as context:
        run(context, Mutant(entry, "weaker", text), FAMILIES[entry][1])
    context.close()
    return {report.kind for report in driver.reports}


def test_a_decode_without_its_releasing_fence_is_a_race_between_ctas() -> None:
    text = entry_text(FAMILIES[GENERAL][0], GENERAL)
    releasing, acquiring = FENCE.finditer(text)
    assert not ATOMIC.search(text)
    assert kinds_reported(GENERAL, text) == set()
    for fence, wanted in ((releasing, {"cta_race"}), (acquiring, set())):
        harmed = text[: fence.start()] + text[fence.end() :]
        assert kinds_reported(GENERAL, harmed) == wanted


@pytest.mark.parametrize("entry", COUNTING)
def test_what_a_counting_decode_has_is_one_atomic_that_releases_and_acquires(entry: str) -> None:
    text = entry_text(FAMILIES[entry][0], entry)
    assert not FENCE.search(text)
    assert len(ATOMIC.findall(text)) == len(re.findall(r"^\s*(?:atom|red)\b", text, re.M)) == 1


@pytest.mark.parametrize("entry", [f"{GENERAL}_d64_any_block", f"{GENERAL}_d128"])
def test_a_decode_whose_counter_does_not_release_is_a_race_between_ctas(entry: str) -> None:
    text = entry_text(FAMILIES[entry][0], entry)
    assert kinds_reported(entry, text) == set()
    for weaker in ("relaxed", "acquire"):
        assert kinds_reported(entry, ATOMIC.sub(f"atom.{weaker}", text)) == {"cta_race"}
