"""Every opcode form of the shipped bundle is emulated, and none is missing from the goldens."""

from __future__ import annotations

from collections import Counter

import pytest
from virtual import goldens

from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.virtual.parser import parse_ptx

BUNDLE = PtxBundle.default()
MODULES = sorted({(v.module, v.target) for vs in BUNDLE.entries.values() for v in vs})


@pytest.mark.parametrize(("module", "target"), MODULES)
def test_every_form_of_the_bundle_is_emulated(module: str, target: str) -> None:
    program = parse_ptx(BUNDLE.ptx(module, target).decode())
    missing = [
        f"{kernel.name}, line {line}: {text}"
        for kernel in program.kernels.values()
        for line, text in kernel.unsupported
    ]
    assert missing == []
    assert all(kernel.instructions for kernel in program.kernels.values())


def test_every_computing_form_of_the_bundle_has_a_golden() -> None:
    """Moves, plain loads and stores, fences and branches need none: other goldens use them."""
    moves = ("ld.", "st.", "mov.", "cvta.", "bra", "bar.warp", "membar.", "fence.", "selp.", "ret")
    used = Counter(
        instruction.opcode
        for module, target in MODULES
        for kernel in parse_ptx(BUNDLE.ptx(module, target).decode()).kernels.values()
        for instruction in kernel.instructions
    )
    recorded = {
        instruction.opcode
        for case in goldens.all_cases().values()
        for instruction in parse_ptx(case.text).kernels[case.entry].instructions
    }
    assert {o for o in used if not o.startswith(moves)} - recorded == set()
