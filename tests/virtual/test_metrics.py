"""Facts of a launch, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from virtual.ptx_bench import Run

WORDS = np.arange(4096, dtype=np.uint32)
SHARED = ".shared .align 16 .b8 s[16384];"


def line_of(run: Run, text: str):  # type: ignore[no-untyped-def]
    found = [line for line in run.facts.lines if text in line.ptx_text]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("stride", "width", "sectors"),
    [(4, 1, 4), (8, 1, 8), (32, 1, 32), (128, 1, 32), (16, 4, 16), (0, 1, 1)],
)
def test_sectors_of_a_warps_request(stride: int, width: int, sectors: int) -> None:
    load = "ld.global.u32 w0" if width == 1 else "ld.global.v4.u32 {w0, w1, w2, w3}"
    body = f"mul.wide.u32 x0, t, {stride}; add.u64 x0, A, x0; {load}, [x0]; ret;"
    line = line_of(Run(body, WORDS, block=64, metrics=True), "ld.global")
    assert (line.requests, line.num_bytes) == (2, 64 * 4 * width)
    # a second warp at stride 0 asks for the same sector again
    assert line.sectors == 2 * sectors


@pytest.mark.parametrize(
    ("stride", "access", "requests", "passes"),
    [
        (4, "ld.shared.u32 w0", 1, 1),
        (8, "ld.shared.u32 w0", 1, 2),
        (128, "ld.shared.u32 w0", 1, 32),
        (132, "ld.shared.u32 w0", 1, 1),
        (0, "ld.shared.u32 w0", 1, 1),
        (8, "ld.shared.v2.u32 {w0, w1}", 2, 2),
        (16, "ld.shared.v4.u32 {w0, w1, w2, w3}", 4, 4),
        (32, "ld.shared.v4.u32 {w0, w1, w2, w3}", 4, 8),
    ],
)
def test_bank_passes_of_a_warps_request(
    stride: int, access: str, requests: int, passes: int
) -> None:
    body = f"mov.u32 w9, s; mad.lo.u32 w9, t, {stride}, w9; {access}, [w9]; ret;"
    run = Run(body, shared=SHARED, metrics=True, sanitize=False)
    line = line_of(run, "ld.shared")
    assert (line.shared_requests, line.shared_passes) == (requests, passes)
    assert run.facts.bank_conflicts == passes - requests


def test_instructions_are_counted_by_warp() -> None:
    body = "setp.ge.u32 p, t, 40; @p bra END; add.u32 w0, t, 1; add.u32 w0, w0, 1;\nEND: ret;"
    run = Run(body, block=128, grid=3)
    counts = {line.ptx_text: line.instructions for line in run.facts.lines}
    assert counts["@p bra END"] == 4 * 3
    assert counts["add.u32 w0, t, 1"] == 2 * 3
    assert counts["ret"] == 4 * 3
    assert run.facts.instructions == sum(counts.values())


def test_facts_do_not_depend_on_chunks() -> None:
    body = (
        "mad.lo.u32 w0, c, n, t; mul.wide.u32 x0, w0, 4; add.u64 x0, A, x0;\n"
        "ld.global.u32 w1, [x0];\n"
        "mov.u32 w2, s; mad.lo.u32 w2, t, 8, w2; st.shared.u32 [w2], w1; ret;"
    )
    runs = [
        Run(body, WORDS, block=64, grid=8, shared=SHARED, metrics=True, lanes_per_chunk=chunk)
        for chunk in (64, 256, 8192)
    ]
    facts = [(r.facts.instructions, r.facts.sectors, r.facts.bank_conflicts) for r in runs]
    assert len(set(facts)) == 1
    assert facts[0][1:] == (8 * 8, 16)


@pytest.mark.parametrize(
    ("body", "text", "facts"),
    [
        # lanes 0 to 7 of each warp, one sector each of a store of 4 bytes a lane
        ("setp.lt.u32 p, w8, 8; @p st.global.u32 [x0], t; ret;", "st.global", (2, 64, 2)),
        ("st.global.v2.u32 [x1], {t, t}; ret;", "st.global", (2, 512, 16)),
        # words that straddle: 16-byte rows of 48 bytes, each in one sector of its own
        ("mul.wide.u32 x2, t, 48; add.u64 x2, A, x2; ld.global.v4.u32 {w0,w1,w2,w3}, [x2]; ret;",
         "ld.global", (2, 1024, 64)),
        ("atom.global.add.u32 w0, [A], 1; ret;", "atom.global", (2, 256, 2)),
    ],
)  # fmt: skip
def test_stores_predicates_and_atomics_are_counted(
    body: str, text: str, facts: tuple[int, int, int]
) -> None:
    before = (
        "and.b32 w8, t, 31; mul.wide.u32 x0, t, 4; add.u64 x0, A, x0;"
        "mul.wide.u32 x1, t, 8; add.u64 x1, A, x1;\n"
    )
    line = line_of(Run(before + body, WORDS, block=64, metrics=True), text)
    assert (line.requests, line.num_bytes, line.sectors) == facts


def test_bytes_and_sectors_are_not_counted_unless_asked_for() -> None:
    run = Run("ld.global.u32 w0, [A]; ret;", WORDS, block=64)
    line = line_of(run, "ld.global")
    assert (line.instructions, line.requests, line.num_bytes, line.sectors) == (2, 0, 0, 0)
