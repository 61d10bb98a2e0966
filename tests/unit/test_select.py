"""Which variant serves which device and driver, and the words when none does."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.bundles import saxpy_manifest, variant, write_saxpy_bundle

from pyferrum_kv.bundle import PtxBundle, select, verdict
from pyferrum_kv.bundle.driver_versions import from_code, in_words, min_driver
from pyferrum_kv.bundle.manifest import Manifest, Module
from pyferrum_kv.bundle.write import new_manifest
from pyferrum_kv.errors import NoVariant

VARIANTS = [variant("sm_80"), variant("sm_90")]


@pytest.mark.parametrize(
    ("compute_capability", "target"),
    [
        ((8, 0), "sm_80"),
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_90"),
        ((12, 0), "sm_90"),
    ],
)
def test_the_highest_target_not_above_the_device(
    compute_capability: tuple[int, int], target: str
) -> None:
    assert select(VARIANTS, compute_capability, 12000).target == target
    assert select(VARIANTS[::-1], compute_capability, 12000).target == target


def test_a_lower_target_is_taken_when_the_driver_cannot_read_the_higher() -> None:
    newer = variant("sm_90", ptx_version=(8, 4), min_driver=(12, 4))
    assert select([VARIANTS[0], newer], (9, 0), 12030).target == "sm_80"
    assert select([VARIANTS[0], newer], (9, 0), 12040).target == "sm_90"


def test_arch_specific_targets_do_not_carry_forward() -> None:
    specific, family = variant("sm_90a"), variant("sm_100f")
    assert select([VARIANTS[0], specific], (9, 0), 12000).target == "sm_90a"
    assert select([VARIANTS[0], specific], (10, 0), 12000).target == "sm_80"
    assert select([VARIANTS[0], family], (10, 3), 12000).target == "sm_100f"
    assert select([VARIANTS[0], family], (12, 0), 12000).target == "sm_80"


def test_an_older_device_is_told_what_there_is() -> None:
    with pytest.raises(
        NoVariant,
        match=r"^no variant of saxpy for compute capability 7\.5; the bundle has sm_80, sm_90$",
    ):
        select(VARIANTS, (7, 5), 13000, "saxpy")


def test_an_older_driver_is_told_what_is_needed() -> None:
    with pytest.raises(NoVariant, match=r"driver >= 12\.0 \(R525\); this driver reports 11\.8"):
        select(VARIANTS, (9, 0), 11080)


def test_no_variant_at_all() -> None:
    with pytest.raises(NoVariant, match="the bundle has none"):
        select([], (9, 0), 12000, "k")


def test_verdict_in_words(tmp_path: Path) -> None:
    bundle = PtxBundle.open(write_saxpy_bundle(tmp_path))
    good = verdict(bundle, (9, 0), 13000)
    assert good.works
    assert good.lines == ("saxpy: sm_90 (PTX ISA 8.0) serves compute capability 9.0",)
    old = verdict(bundle, (9, 0), 11080)
    assert not old.works
    assert old.lines == ("bundle needs driver >= 12.0 (R525); this driver reports 11.8",)
    assert not verdict(bundle, (7, 5), 13000).works
    none = verdict(bundle, None, None)
    assert not none.works
    assert "needs driver >= 12.0 (R525) and compute capability >= 8.0" in none.lines[0]


def with_fast_module(tmp_path: Path) -> PtxBundle:
    """A second module that begins at sm_90."""
    saxpy = saxpy_manifest().modules[0]
    fast = Module("fast", (), (), (variant("sm_90", module="fast", file="fast.ptx", entries=()),))
    return PtxBundle(tmp_path, new_manifest([saxpy, fast]))


def test_a_module_for_newer_devices_does_not_spoil_the_verdict(tmp_path: Path) -> None:
    bundle = with_fast_module(tmp_path)
    assert verdict(bundle, (8, 0), 12000).works
    assert "fast: for compute capability >= 9.0 only" in verdict(bundle, (8, 0), 12000).lines
    assert len(verdict(bundle, (9, 0), 12000).lines) == 2
    assert not verdict(bundle, (7, 5), 12000).works
    assert "compute capability >= 8.0" in verdict(bundle, None, None).lines[0]


def test_an_empty_bundle_says_so(tmp_path: Path) -> None:
    empty: Manifest = new_manifest([])
    assert verdict(PtxBundle(tmp_path, empty), (9, 0), 12000).lines == (
        "bundle is empty; run python build_ptx.py",
    )


def test_driver_table() -> None:
    assert min_driver((8, 0)) == (12, 0)
    assert min_driver((8, 4)) == (12, 4)
    assert min_driver((6, 3)) == (11, 0)
    assert min_driver((99, 0)) is None
    assert in_words((12, 0)) == "12.0 (R525)"
    assert in_words((13, 4)) == "13.4"
    assert from_code(12040) == (12, 4)
    assert from_code(13000) == (13, 0)
