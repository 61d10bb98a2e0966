"""Races between CTAs: found where nothing orders them, quiet where a fence and an atomic do."""

from __future__ import annotations

import numpy as np
import pytest
from virtual.ptx_bench import Run

WORDS = np.zeros(1024, np.uint32)

LAST_CTA = """
mad.lo.u32 w0, c, n, t; mad.wide.u32 x0, w0, 4, A; st.global.u32 [x0], w0;
{fence}
bar.sync 0;
setp.ne.u32 p, t, 0; @p bra WAIT;
atom.global.add.u32 w1, [B], 1; mov.u32 w2, %nctaid.x; sub.u32 w2, w2, 1;
setp.eq.u32 q, w1, w2; selp.u32 w3, 1, 0, q; st.shared.u32 [s], w3;
WAIT: bar.sync 0; ld.shared.u32 w3, [s]; setp.eq.u32 q, w3, 0; @q ret;
{acquire}
mov.u32 w4, 0; mov.u32 w5, 0; mov.u32 w6, %nctaid.x;
SUM: mad.lo.u32 w7, w5, n, t; mad.wide.u32 x1, w7, 4, A; {load} w8, [x1];
add.u32 w4, w4, w8; add.u32 w5, w5, 1; setp.lt.u32 p, w5, w6; @p bra SUM;
mad.wide.u32 x2, t, 4, C; st.global.u32 [x2], w4; {reset} ret;
"""
"""Every CTA writes a row; the last to arrive adds the rows up, as split kernels do."""


def last_cta(
    fence: str = "membar.gl;",
    acquire: str = "",
    load: str = "ld.global.u32",
    reset: str = "setp.eq.u32 p, t, 0; @p st.global.u32 [B], 0;",
    **options: int,
) -> Run:
    body = LAST_CTA.format(fence=fence, acquire=acquire, load=load, reset=reset)
    return Run(
        body, WORDS[: 6 * 64], WORDS[:1], WORDS[:64], block=64, grid=6,
        shared=".shared .align 4 .b8 s[4];", **options,
    )  # fmt: skip


@pytest.mark.parametrize("lanes_per_chunk", [64, 128, 8192])
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("fence", ["membar.gl;", "fence.acq_rel.gpu;", "membar.sys;"])
@pytest.mark.parametrize("acquire", ["", "membar.gl;"])
def test_the_last_cta_may_read_what_the_others_fenced(
    fence: str, acquire: str, seed: int, lanes_per_chunk: int
) -> None:
    run = last_cta(fence, acquire, seed=seed, lanes_per_chunk=lanes_per_chunk)
    assert run.reports == []
    assert run.arrays[2].tolist() == [sum(64 * i + t for i in range(6)) for t in range(64)]
    assert run.arrays[1][0] == 0


def test_one_thread_may_fence_for_its_cta_after_a_barrier() -> None:
    run = last_cta(fence="bar.sync 0; setp.eq.u32 r, t, 0; @r membar.gl;")
    assert run.reports == []


@pytest.mark.parametrize("fence", ["", "membar.cta;", "fence.acq_rel.cta;"])
def test_without_the_fence_it_is_a_race(fence: str) -> None:
    run = last_cta(fence)
    assert run.kinds == ["cta_race"]
    report = run.reports[0]
    assert "read-after-write" in report.detail
    assert "ld.global.u32" in report.ptx_text
    assert "wrote at ptx:" in report.other


def test_a_fence_by_one_thread_before_the_barrier_covers_only_its_own_writes() -> None:
    assert last_cta(fence="setp.eq.u32 r, t, 0; @r membar.gl;").kinds == ["cta_race"]


def test_an_atomic_that_releases_needs_no_fence() -> None:
    body = LAST_CTA.replace("atom.global.add", "atom.add.acq_rel.gpu.global.add")
    body = LAST_CTA.replace("atom.global.add.u32", "atom.acq_rel.gpu.global.add.u32")
    text = body.format(fence="", acquire="", load="ld.global.u32", reset="")
    run = Run(text, WORDS[: 6 * 64], WORDS[:1], WORDS[:64], block=64, grid=6,
              shared=".shared .align 4 .b8 s[4];")  # fmt: skip
    assert run.reports == []


def test_loads_through_the_read_only_cache_may_be_stale() -> None:
    run = last_cta(load="ld.global.nc.u32")
    assert run.kinds == ["stale_read"]
    assert "same launch writes" in run.reports[0].detail


def test_two_ctas_that_write_one_word() -> None:
    run = Run("st.global.u32 [A], c; ret;", WORDS[:1], grid=2)
    assert run.kinds == ["cta_race"]
    assert "write-after-write" in run.reports[0].detail
    assert Run("st.global.u32 [A], 7; ret;", WORDS[:1], grid=2).reports == []
    assert Run("st.global.u32 [A], t; ret;", WORDS[:1], grid=1).reports == []


@pytest.mark.parametrize("first", ["reads", "writes"])
def test_one_cta_reads_what_another_writes(first: str) -> None:
    reader = 0 if first == "reads" else 1
    body = (
        f"setp.eq.u32 p, c, {reader}; @p bra READ; st.global.u32 [A], t; ret;\n"
        "READ: ld.global.u32 w0, [A]; mad.wide.u32 x0, t, 4, B; st.global.u32 [x0], w0; ret;"
    )
    for chunk in (32, 8192):
        run = Run(body, WORDS[:1], WORDS[:32], grid=2, lanes_per_chunk=chunk)
        assert "cta_race" in run.kinds


def test_neighbouring_bytes_of_two_ctas_do_not_race() -> None:
    body = "cvt.u64.u32 x0, c; add.u64 x0, A, x0; st.global.u8 [x0], h0; ret;"
    run = Run(body.replace("st.", "cvt.u16.u32 h0, c; st."), np.zeros(8, np.uint8), grid=8)
    assert run.reports == []
    assert run.arrays[0].tolist() == list(range(8))


def test_atomics_of_all_ctas_on_one_place_are_no_race() -> None:
    run = Run("red.global.add.u32 [A], 1; ret;", WORDS[:1], block=64, grid=8)
    assert run.reports == []
    assert run.arrays[0][0] == 512


def test_a_plain_read_of_what_others_change_by_atomics_is_a_race() -> None:
    body = (
        "setp.eq.u32 p, c, 3; @p bra READ; red.global.add.u32 [A], 1; ret;\n"
        "READ: ld.global.u32 w0, [A]; mad.wide.u32 x0, t, 4, B; st.global.u32 [x0], w0; ret;"
    )
    assert "cta_race" in Run(body, WORDS[:1], WORDS[:32], grid=4).kinds


def test_a_flag_published_by_release_is_followed_by_acquire() -> None:
    body = (
        "setp.eq.u32 p, c, 1; @p bra READ; mad.wide.u32 x0, t, 4, A; st.global.u32 [x0], t;\n"
        "bar.sync 0; setp.ne.u32 q, t, 0; @q ret; {publish} [B], 1; ret;\n"
        "READ: ld.acquire.gpu.global.u32 w1, [B]; setp.eq.u32 p, w1, 0; @p bra READ;\n"
        "mad.wide.u32 x0, t, 4, A; ld.global.u32 w0, [x0]; mad.wide.u32 x1, t, 4, C;\n"
        "st.global.u32 [x1], w0; ret;"
    )
    clean = body.format(publish="st.release.gpu.global.u32")
    run = Run(clean, WORDS[:32], WORDS[:1], WORDS[:32], grid=2)
    assert run.reports == []
    assert run.arrays[2].tolist() == list(range(32))
    relaxed = body.format(publish="st.relaxed.gpu.global.u32")
    assert Run(relaxed, WORDS[:32], WORDS[:1], WORDS[:32], grid=2).kinds == ["cta_race"]


def test_one_cta_races_with_nobody() -> None:
    body = (
        "mad.wide.u32 x0, t, 4, A; st.global.u32 [x0], t; bar.sync 0; ld.global.u32 w0, [A]; ret;"
    )
    assert Run(body, WORDS[:64], block=64).reports == []


def test_accesses_are_told_as_ranges_for_the_order_of_streams() -> None:
    run = Run("mad.wide.u32 x0, t, 4, A; ld.global.u32 w0, [x0]; st.global.u32 [B+8], 1; ret;",
              WORDS[:32], WORDS[:4])  # fmt: skip
    a, b = run.addresses
    assert sorted(run.facts.accesses) == [(a, a + 128, False), (b + 8, b + 12, True)]


@pytest.mark.parametrize("kept", [1, 100])
def test_loads_of_long_launches_are_thinned_without_losing_races(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyferrum_kv.virtual.cta_races.MOST_KEPT", kept)
    assert last_cta().reports == []
    assert last_cta(fence="").kinds == ["cta_race"]
    assert last_cta(fence="", lanes_per_chunk=64).kinds == ["cta_race"]
