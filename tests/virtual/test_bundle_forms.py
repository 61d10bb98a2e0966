"""Opcode forms of the shipped bundle: emulated with a golden, or refused as the list says."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from helpers.virtual_bench import Bench, R
from virtual import goldens

from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.virtual.parser import parse_ptx
from pyferrum_kv.virtual.program import Program

BUNDLE = PtxBundle.default()
MODULES = sorted({(v.module, v.target) for vs in BUNDLE.entries.values() for v in vs})
CLUSTERS = {  # of an entry's refusals: (line, "text: reason") -> this
    "%cluster_ctarank": 2,
    "%cluster_nctarank": 2,
    "barrier.cluster.arrive.aligned": 2,
    "barrier.cluster.wait.aligned": 2,
    "mapa.shared::cluster.u32": 2,
    "st.shared::cluster.v4.f32": 1,
    "st.shared::cluster.v2.f32": 1,
}
POLICY = "createpolicy.fractional.L2::evict_first.b64"
HINTED = "ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v4.u32"
HINTED_LOADS = {64: (3, 4), 128: (9, 16), 256: (17, 32)}  # head_dim -> policies made, loads
BULK_COPIES = {
    "cvta.param.u64": 2,
    "prefetch.tensormap": 1,
    "mbarrier.init.shared::cta.b64": 2,
    "fence.mbarrier_init.release.cluster": 1,
    "mbarrier.try_wait.parity.shared::cta.b64": 2,
    "mbarrier.arrive.expect_tx.shared::cta.b64": 2,
    "mbarrier.arrive.shared::cta.b64": 1,
    "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
    ".L2::cache_hint": 1,
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint": 1,
    POLICY: 1,
}
REFUSED = {
    **{
        f"paged_decode_attention_int8_cluster_d{d}": {**CLUSTERS, POLICY: made, HINTED: loads}
        for d, (made, loads) in HINTED_LOADS.items()
    },
    **{f"paged_decode_attention_int8_tma_d{d}": BULK_COPIES for d in (64, 80, 96, 128)},
}
"""Module -> what of each of its entries is not emulated, and how often it stands there."""
EMULATED = [m for m in MODULES if m[0] not in REFUSED]


@cache
def program_of(module: str, target: str) -> Program:
    return parse_ptx(BUNDLE.ptx(module, target).decode())


def what_is_refused(text: str) -> str:
    """The opcode of a refusal, or the special register that the opcode is given."""
    instruction, _, reason = text.partition(": ")
    words = instruction.split()
    opcode = words[1] if words[0].startswith("@") else words[0]
    return reason.split()[0] if reason.startswith("%") else opcode.rstrip(":")


@pytest.mark.parametrize(("module", "target"), EMULATED)
def test_every_form_of_the_bundle_is_emulated(module: str, target: str) -> None:
    program = program_of(module, target)
    missing = [
        f"{kernel.name}, line {line}: {text}"
        for kernel in program.kernels.values()
        for line, text in kernel.unsupported
    ]
    assert missing == []
    assert all(kernel.instructions for kernel in program.kernels.values())


def test_only_hoppers_modules_are_not_emulated() -> None:
    assert {m for m in MODULES if m not in EMULATED} == {(name, "sm_90") for name in REFUSED}
    served = {v.module for e, vs in BUNDLE.entries.items() if BUNDLE.is_newer_only(e) for v in vs}
    assert served == set(REFUSED)


@pytest.mark.parametrize("module", REFUSED)
def test_each_entry_of_hoppers_modules_is_refused_by_opcode_and_line(module: str) -> None:
    bench, text = Bench(), BUNDLE.ptx(module, "sm_90")
    loaded = bench.do("cuModuleLoadData", text + b"\0")
    for name, kernel in program_of(module, "sm_90").kernels.items():
        assert Counter(what_is_refused(text) for _, text in kernel.unsupported) == REFUSED[module]
        for line, refusal in kernel.unsupported:
            assert what_is_refused(refusal) in text.decode().splitlines()[line - 1]
        status = bench.status("cuModuleGetFunction", loaded, name.encode())
        assert status == R.CUDA_ERROR_NOT_SUPPORTED
        line, refusal = kernel.unsupported[0]
        assert f"line {line}: {refusal}" in bench.driver.last_error


def test_every_computing_form_of_the_bundle_has_a_golden() -> None:
    """Moves, plain loads and stores, fences and branches need none: other goldens use them."""
    moves = ("ld.", "st.", "mov.", "cvta.", "bra", "bar.warp", "membar.", "fence.", "selp.", "ret")
    used = Counter(
        instruction.opcode
        for module, target in MODULES
        for kernel in program_of(module, target).kernels.values()
        for instruction in kernel.instructions
    )
    recorded = {
        instruction.opcode
        for case in goldens.all_cases().values()
        for instruction in parse_ptx(case.text).kernels[case.entry].instructions
    }
    assert {o for o in used if not o.startswith(moves)} - recorded == set()
