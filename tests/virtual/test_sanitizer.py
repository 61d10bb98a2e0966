"""What the sanitiser reports, and what it must keep quiet about."""

from __future__ import annotations

import numpy as np
import pytest
from virtual.ptx_bench import Run, thread_store

from pyferrum_kv.virtual.run import KernelFault

ZEROS = np.zeros(256, np.uint32)
SHARED = ".shared .align 16 .b8 s[1024];"
OWN = "mov.u32 w20, s; mad.lo.u32 w20, t, 4, w20;\n"  # this thread's word
NEXT = "add.u32 w21, t, 1; and.b32 w21, w21, 63; mov.u32 w22, s; mad.lo.u32 w21, w21, 4, w22;\n"


# --------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("offset", "kind", "words"),
    [
        (1024, "illegal_address", "0 bytes past allocation 1 of 1024 bytes"),
        (-4, "illegal_address", "4 bytes before allocation 1"),
        (2, "misaligned", "no multiple of 4"),
        (1 << 40, "illegal_address", "past allocation"),
    ],
)
@pytest.mark.parametrize(
    "access",
    [
        "ld.global.u32 w0, [x0];",
        "st.global.u32 [x0], t;",
        "atom.global.add.u32 w0, [x0], 1;",
        "ld.u32 w0, [x0];",
    ],
)
def test_a_bad_address_is_a_fault(access: str, offset: int, kind: str, words: str) -> None:
    body = f"setp.ne.u32 p, t, 5; @p bra END; add.s64 x0, A, {offset}; {access}\nEND: ret;"
    with pytest.raises(KernelFault) as caught:
        Run(body, ZEROS)
    assert caught.value.kind == kind
    report = caught.value.report
    assert (report.cta, report.thread, report.lanes) == ((0, 0, 0), (5, 0, 0), 1)
    assert words in str(report)
    assert access.rstrip(";") in str(report)


def test_an_access_across_the_end_is_out_of_bounds() -> None:
    with pytest.raises(KernelFault) as caught:
        Run("ld.global.v4.u32 {w0, w1, w2, w3}, [A]; ret;", np.zeros(3, np.uint32))
    assert caught.value.kind == "illegal_address"


def test_use_after_free_is_told() -> None:
    run = Run("ret;", ZEROS)
    freed = run.addresses[0]
    run.memory.free(freed)
    with pytest.raises(KernelFault, match="into freed allocation") as caught:
        Run(f"mov.u64 x0, {freed}; ld.global.u32 w0, [x0]; ret;", ZEROS[:1], keep=run.memory)
    assert caught.value.kind == "illegal_address"
    assert caught.value.report.kind == "use_after_free"


def test_shared_memory_ends_where_it_ends() -> None:
    with pytest.raises(KernelFault, match="the CTA has 1040 bytes") as caught:
        Run(
            "mov.u32 w0, s; add.u32 w0, w0, 1040; st.shared.u32 [w0], t; ret;", ZEROS,
            shared=SHARED, dynamic=16,
        )  # fmt: skip
    assert caught.value.kind == "illegal_address"


def test_misaligned_shared_access_is_a_fault() -> None:
    with pytest.raises(KernelFault) as caught:
        Run("mov.u32 w0, s; st.shared.v2.u32 [w0+4], {t, t}; ret;", ZEROS, shared=SHARED)
    assert caught.value.kind == "misaligned"


def test_local_memory_is_bounded() -> None:
    with pytest.raises(KernelFault, match="16 bytes of local memory"):
        Run(".local .align 4 .b8 d[16]; mov.u64 x0, d; ld.local.u32 w0, [x0+16]; ret;", ZEROS)


# ------------------------------------------------------ uninitialised


def test_read_of_unwritten_global_bytes_is_told_once() -> None:
    run = Run("ld.global.u32 w0, [B+8];" + thread_store("w0") + "ret;", ZEROS, unwritten=64)
    assert run.kinds == ["uninitialized"]
    assert "8 bytes into allocation 2" in str(run.reports[0])
    assert run.reports[0].lanes == 1


def test_written_bytes_may_be_read_in_the_same_launch() -> None:
    body = "mad.wide.u32 x0, t, 4, B; st.global.u32 [x0], t; ld.global.u32 w0, [x0];"
    assert Run(body + thread_store("w0") + "ret;", ZEROS, unwritten=128).reports == []


def test_partly_written_vectors_are_told() -> None:
    body = "st.global.u32 [B], t; ld.global.v2.u32 {w0, w1}, [B]; ret;"
    assert Run(body, ZEROS, unwritten=64).kinds == ["uninitialized"]


def test_read_of_unwritten_shared_bytes_is_told() -> None:
    run = Run(
        OWN + "ld.shared.u32 w0, [w20+4];" + thread_store("w0") + "ret;", ZEROS, shared=SHARED
    )
    assert run.kinds == ["uninitialized"]
    assert "shared s+0x4" in str(run.reports[0])


def test_nothing_is_judged_without_the_sanitiser() -> None:
    body = OWN + NEXT + "st.shared.u32 [w20], t; ld.shared.u32 w0, [w21]; ld.global.u32 w1, [B];"
    run = Run(body + "ret;", ZEROS, block=64, shared=SHARED, unwritten=64, sanitize=False)
    assert run.reports == []


# ----------------------------------------------------- shared races


def test_read_of_a_neighbours_word_needs_a_barrier() -> None:
    body = OWN + NEXT + "st.shared.u32 [w20], t; {} ld.shared.u32 w0, [w21];" + thread_store("w0")
    racy = Run(body.format("") + "ret;", ZEROS, block=64, shared=SHARED)
    assert racy.kinds == ["race"]
    text = str(racy.reports[0])
    assert "read-after-write, shared s+0x" in text
    assert "wrote at ptx:" in text
    assert racy.reports[0].lanes == 64
    assert Run(body.format("bar.sync 0;") + "ret;", ZEROS, block=64, shared=SHARED).reports == []


def test_write_over_what_others_read_needs_a_barrier() -> None:
    body = OWN + NEXT + (
        "st.shared.u32 [w20], t; bar.sync 0; ld.shared.u32 w0, [w21]; {} st.shared.u32 [w20], w0;"
    )  # fmt: skip
    racy = Run(body.format("") + "ret;", ZEROS, block=64, shared=SHARED)
    assert racy.kinds == ["race"]
    assert "write-after-read" in racy.reports[0].detail
    assert Run(body.format("bar.sync 0;") + "ret;", ZEROS, block=64, shared=SHARED).reports == []


def test_a_warp_barrier_orders_its_warp_only() -> None:
    body = OWN + NEXT + (
        "st.shared.u32 [w20], t; bar.warp.sync -1; ld.shared.u32 w0, [w21];" + thread_store("w0")
    )  # fmt: skip
    assert Run(body + "ret;", ZEROS, block=64, shared=SHARED).kinds == ["race"]  # 31 reads 32
    one = body.replace("and.b32 w21, w21, 63", "and.b32 w21, w21, 31")
    assert Run(one + "ret;", ZEROS, block=32, shared=SHARED).reports == []


def test_neighbouring_bytes_do_not_race() -> None:
    body = (
        "mov.u32 w20, s; add.u32 w20, w20, t; cvt.u16.u32 h0, t; st.shared.u8 [w20], h0;\n"
        "ld.shared.u8 h1, [w20]; cvt.u32.u16 w0, h1;"
    )
    run = Run(body + thread_store("w0") + "ret;", ZEROS[:64], block=64, shared=SHARED)
    assert run.reports == []
    assert run.arrays[0].tolist() == list(range(64))


def test_all_threads_may_read_one_word_and_then_it_may_not_be_written() -> None:
    setup = "setp.eq.u32 p, t, 63; @p st.shared.u32 [s], t; bar.sync 0; ld.shared.u32 w0, [s];\n"
    assert Run(setup + "ret;", ZEROS, block=64, shared=SHARED).reports == []
    run = Run(setup + "@p st.shared.u32 [s], w0; ret;", ZEROS, block=64, shared=SHARED)
    assert run.kinds == ["race"]  # thread 63 read it last, but others did too
    assert "threads of several warps" in run.reports[0].other


def test_two_threads_store_different_values_to_one_word() -> None:
    run = Run("st.shared.u32 [s], t; ret;", ZEROS, shared=SHARED)
    assert run.kinds == ["race"]
    assert "write-after-write" in run.reports[0].detail
    assert Run("st.shared.u32 [s], 7; ret;", ZEROS, shared=SHARED).reports == []


def test_atomics_do_not_race_with_each_other_but_with_plain_accesses() -> None:
    start = "setp.eq.u32 p, t, 0; @p st.shared.u32 [s], 0; bar.sync 0; red.shared.add.u32 [s], 1;\n"
    read = "ld.shared.u32 w0, [s];" + thread_store("w0") + "ret;"
    clean = Run(start + "bar.sync 0;" + read, ZEROS[:64], block=64, shared=SHARED)
    assert clean.reports == []
    assert set(clean.arrays[0].tolist()) == {64}
    assert Run(start + read, ZEROS, block=64, shared=SHARED).kinds == ["race"]


def test_ctas_have_shared_memory_of_their_own() -> None:
    body = OWN + "add.u32 w0, t, c; st.shared.u32 [w20], w0; ld.shared.u32 w0, [w20];"
    run = Run(body + thread_store("w0") + "ret;", ZEROS, block=32, grid=8, shared=SHARED)
    assert run.reports == []
    assert run.arrays[0].tolist() == [i % 32 + i // 32 for i in range(256)]


# ------------------------------------------------------- cp.async

COPY = (
    "mov.u32 w20, s; mad.lo.u32 w20, t, 16, w20; mad.wide.u32 x0, t, 16, A;\n"
    "cp.async.cg.shared.global [w20], [x0], 16;\ncp.async.commit_group;\n"
)
LOAD = "ld.shared.u32 w0, [w20];" + thread_store("w0", "B") + "ret;"
WORDS = np.arange(128, dtype=np.uint32)


def test_copied_bytes_are_in_flight_until_their_group_is_waited_for() -> None:
    racy = Run(COPY + LOAD, WORDS, ZEROS[:32], shared=SHARED)
    assert racy.kinds == ["uninitialized", "in_flight"]
    assert "cp.async.cg.shared.global" in racy.reports[1].other
    clean = Run(COPY + "cp.async.wait_group 0;" + LOAD, WORDS, ZEROS[:32], shared=SHARED)
    assert clean.reports == []
    assert clean.arrays[1].tolist() == list(range(0, 128, 4))


def test_waiting_for_all_but_one_group_leaves_the_newest_in_flight() -> None:
    second = COPY.replace("[w20]", "[w20+512]")
    wait = "cp.async.wait_group 1;"
    assert Run(COPY + second + wait + LOAD, WORDS, ZEROS[:32], shared=SHARED).reports == []
    late = LOAD.replace("[w20]", "[w20+512]")
    run = Run(COPY + second + wait + late, WORDS, ZEROS[:32], shared=SHARED)
    assert "in_flight" in run.kinds


def test_another_thread_needs_a_barrier_behind_the_wait() -> None:
    other = "mov.u32 w22, s; sub.u32 w21, 31, t; mad.lo.u32 w21, w21, 16, w22;"
    read = other + "{} ld.shared.u32 w0, [w21]; ret;"
    wait = COPY + "cp.async.wait_all;"
    assert Run(wait + read.format(""), WORDS, shared=SHARED).kinds == ["race"]
    assert Run(wait + read.format("bar.sync 0;"), WORDS, shared=SHARED).reports == []


# ------------------------------------------------- barriers and warps


@pytest.mark.parametrize(("high", "low"), [("bar.sync 1", "bar.sync 0"),
                                           ("bar.sync 0, 96", "bar.sync 0, 96")])  # fmt: skip
def test_a_barrier_that_never_opens_ends_the_launch(high: str, low: str) -> None:
    body = f"setp.lt.u32 p, t, 32; @p bra A0; {high}; ret;\nA0: {low}; ret;"
    with pytest.raises(KernelFault, match="came, nobody else can") as caught:
        Run(body, ZEROS, block=64)
    assert (caught.value.kind, caught.value.report.kind) == ("timeout", "divergent_barrier")


def test_two_barrier_instructions_do_not_make_one() -> None:
    body = "setp.lt.u32 p, t, 32; @p bra A0; bar.sync 0; ret;\nA0: bar.sync 0; ret;"
    run = Run(body, ZEROS, block=64)
    assert run.kinds == ["divergent_barrier"]
    assert "others wait at ptx:" in run.reports[0].other
    unaligned = body.replace("bar.sync 0", "barrier.sync 0")
    assert Run(unaligned, ZEROS, block=64).reports == []


def test_a_shuffle_whose_members_have_exited() -> None:
    body = "setp.ge.u32 p, t, 20; @p ret; shfl.sync.bfly.b32 w0, t, 16, 31, -1; ret;"
    run = Run(body, ZEROS)
    assert run.kinds == ["warp_sync"]
    assert "names lane 20, which has exited" in run.reports[0].detail
    assert Run(body.replace("31, -1", "31, 0xfffff").replace("16,", "1,"), ZEROS).reports == []


def test_a_shuffle_that_reads_a_lane_outside_its_mask() -> None:
    body = "setp.ge.u32 p, t, 16; @p ret; shfl.sync.down.b32 w0, t, 8, 31, 0xffff; ret;"
    assert Run(body, ZEROS).kinds == ["warp_sync"]


def test_a_lane_that_its_own_mask_does_not_name() -> None:
    run = Run("vote.sync.ballot.b32 w0, 1, 0xfffffffe; ret;", ZEROS)
    assert run.kinds == ["warp_sync"]
    assert "own member mask" in run.reports[0].detail


def test_a_collective_waits_for_lanes_on_another_path() -> None:
    body = (
        "setp.lt.u32 p, t, 16; @p bra LOW; add.u32 w0, t, 100; bra MEET;\n"
        "LOW: mov.u32 w0, t;\nMEET: shfl.sync.idx.b32 w1, w0, 31, 31, -1;\n"
    )
    run = Run(body + thread_store("w1") + "ret;", ZEROS[:32])
    assert run.reports == []
    assert set(run.arrays[0].tolist()) == {131}


def test_mma_with_lanes_missing_is_told() -> None:
    body = (
        "mov.b32 w0, 0; mov.f32 f0, 0f00000000; setp.eq.u32 p, t, 3; @p ret;\n"
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {f1, f2, f3, f4}, {w0, w0}, {w0}, "
        "{f0, f0, f0, f0}; ret;"
    )
    run = Run(body, ZEROS)
    assert run.kinds == ["warp_sync"]
    assert "lane 3" in run.reports[0].detail


def test_reports_name_the_source_line() -> None:
    body = (
        '.loc 1 42 7\nst.shared.u32 [s], t;\nret;\n}\n.file 1 "/src/kernels/mine.cu"\n.section .x {'
    )
    run = Run(body, ZEROS, shared=SHARED)
    assert run.reports[0].cu_line == "mine.cu:42"
    assert str(run.reports[0]).splitlines()[1].startswith("=========     at mine.cu:42 <- ptx:")
