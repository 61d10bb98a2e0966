"""Kernels run as on hardware: divergence, loops, barriers, memory spaces, atomics, chunks."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from virtual.ptx_bench import Run, thread_store

from pyferrum_kv.virtual.memory import Memory
from pyferrum_kv.virtual.parser import parse_ptx
from pyferrum_kv.virtual.run import KernelFault, launch

ZEROS = np.zeros(1024, np.uint32)
THREADS = np.arange(1024, dtype=np.uint32)


def test_lanes_that_parted_meet_again() -> None:
    body = (
        "and.b32 w0, t, 3; setp.eq.u32 p, w0, 0; @p bra ZERO; setp.eq.u32 q, w0, 1; @q bra ONE;\n"
        "mov.u32 w1, 30; bra MEET;\nZERO: mov.u32 w1, 10; bra MEET;\nONE: mov.u32 w1, 20;\n"
        "MEET: activemask.b32 w2; add.u32 w1, w1, t; setp.ne.u32 p, w2, -1; @p mov.u32 w1, 0;\n"
    )
    run = Run(body + thread_store("w1") + "ret;", ZEROS[:64], block=64)
    assert run.arrays[0].tolist() == [[10, 20, 30, 30][i % 4] + i for i in range(64)]
    assert run.reports == []


def test_loops_run_as_often_as_each_lane_wants() -> None:
    body = (
        "mov.u32 w0, 0; mov.u32 w1, 0;\nLOOP: setp.ge.u32 p, w1, t; @p bra DONE;\n"
        "add.u32 w0, w0, w1; add.u32 w1, w1, 1; bra LOOP;\nDONE:\n"
    )
    run = Run(body + thread_store("w0") + "ret;", ZEROS[:100], block=100)
    assert run.arrays[0].tolist() == [i * (i - 1) // 2 for i in range(100)]


@pytest.mark.parametrize("grid", [1, 5])
@pytest.mark.parametrize("block", [(32, 1, 1), (70, 1, 1), (8, 4, 2), (33, 3, 1)])
@pytest.mark.parametrize("lanes_per_chunk", [64, 8192])
def test_special_registers_number_every_thread_once(
    grid: int, block: tuple[int, int, int], lanes_per_chunk: int
) -> None:
    threads = block[0] * block[1] * block[2]
    body = (
        "mov.u32 w0, %tid.y; mov.u32 w1, %tid.z; mov.u32 w2, %ntid.y; mad.lo.u32 w1, w1, w2, w0;\n"
        "mad.lo.u32 w1, w1, n, t; mov.u32 w3, %ntid.z; mul.lo.u32 w2, w2, w3;\n"
        "mul.lo.u32 w2, w2, n;\n"
        "mad.lo.u32 w4, c, w2, w1; mul.wide.u32 x0, w4, 4; add.u64 x0, A, x0;\n"
        "mov.u32 w5, %laneid; mov.u32 w6, %warpid; mad.lo.u32 w6, w6, 32, w5; sub.u32 w6, w6, w1;\n"
        "add.u32 w4, w4, w6; st.global.u32 [x0], w4; ret;"
    )
    run = Run(
        body, np.zeros(grid * threads, np.uint32), grid=grid, block=block,
        lanes_per_chunk=lanes_per_chunk,
    )  # fmt: skip
    assert run.arrays[0].tolist() == list(range(grid * threads))
    assert run.reports == []


def test_guarded_instructions_leave_the_others_alone() -> None:
    body = (
        "mov.u32 w0, 5; setp.lt.u32 p, t, 10; @p add.u32 w0, w0, t; @!p mov.u32 w0, 7;\n"
        "mul.wide.u32 x0, t, 4; add.u64 x0, A, x0; @p st.global.u32 [x0], w0;\n"
        "@p ld.global.u32 w1, [x0]; @p add.u32 w1, w1, 100; @p st.global.u32 [x0], w1; ret;"
    )
    run = Run(body, np.full(32, 9, np.uint32))
    assert run.arrays[0].tolist() == [105 + i if i < 10 else 9 for i in range(32)]


def test_threads_that_return_early_do_not_hold_the_others_up() -> None:
    body = (
        "setp.ge.u32 p, t, 50; @p ret; mov.u32 w0, s; shl.b32 w1, t, 2; add.u32 w0, w0, w1;\n"
        "st.shared.u32 [w0], t; bar.sync 0; mov.u32 w2, s; sub.u32 w1, 196, w1;\n"
        "add.u32 w2, w2, w1; ld.shared.u32 w3, [w2];\n"
    )
    run = Run(
        body + thread_store("w3") + "ret;", ZEROS[:64], block=64,
        shared=".shared .align 4 .b8 s[200];",
    )  # fmt: skip
    assert run.arrays[0].tolist() == [49 - i if i < 50 else 0 for i in range(64)]


def test_a_branch_table_sends_each_lane_its_way() -> None:
    body = (
        "and.b32 w0, t, 3; T: .branchtargets L0, L1, L2, L3;\nbrx.idx w0, T;\n"
        "L0: mov.u32 w1, 100; bra E;\nL1: mov.u32 w1, 101; bra E;\nL2: mov.u32 w1, 102; bra E;\n"
        "L3: mov.u32 w1, 103;\nE:\n"
    )
    run = Run(body + thread_store("w1") + "ret;", ZEROS[:32])
    assert run.arrays[0].tolist() == [100 + i % 4 for i in range(32)]


def test_a_label_written_again_in_another_scope_is_another_place() -> None:
    again = "{ .reg .pred more; AGAIN: add.u32 w1, w1, 1; setp.lt.u32 more, w1, %s;\n"
    again += "@more bra AGAIN; }\n"
    body = "mov.u32 w1, 0;\n" + again % "t" + "add.u32 w1, w1, 100;\n" + again % "150"
    run = Run(body + thread_store("w1") + "ret;", ZEROS[:64], block=64)
    assert run.arrays[0].tolist() == [max(150, max(i, 1) + 101) for i in range(64)]


def test_local_const_and_global_variables() -> None:
    outside = (
        ".const .align 4 .b32 table[4] = {10, 20, 30, 0x28};\n.global .align 8 .u64 counter = 5;\n"
    )
    body = (
        ".local .align 4 .b8 depot[16];\n"
        "mov.u64 x0, depot; and.b32 w0, t, 3; mul.wide.u32 x1, w0, 4; add.u64 x0, x0, x1;\n"
        "st.local.u32 [x0], t; mov.u64 x2, table; add.u64 x2, x2, x1; ld.const.u32 w1, [x2];\n"
        "ld.local.u32 w2, [x0]; add.u32 w1, w1, w2; cvta.local.u64 x3, x0; ld.u32 w3, [x3];\n"
        "add.u32 w1, w1, w3; red.global.add.u64 [counter], 1;\n"
    )
    run = Run(body + thread_store("w1") + "ret;", ZEROS[:32], outside=outside)
    assert run.arrays[0].tolist() == [(i % 4 + 1) * 10 + 2 * i for i in range(32)]
    counter = next(a for a in run.memory.live() if a.num_bytes == 8)
    assert run.memory.read(counter.address, 8).view(np.uint64)[0] == 37


def test_scopes_declare_registers_of_their_own() -> None:
    body = (
        "mov.u32 w0, 1;\n{ .reg .b32 w0; mov.u32 w0, 50; { .reg .b16 low; cvt.u16.u32 low, w0;\n"
        "mov.b32 w1, {low, low}; } }\nadd.u32 w0, w0, w1;\n"
    )
    run = Run(body + thread_store("w0") + "ret;", ZEROS[:32])
    assert set(run.arrays[0].tolist()) == {1 + 50 * 65537}


@pytest.mark.parametrize("action", ["sync", "arrive"])
def test_named_barriers_pass_data_between_halves(action: str) -> None:
    first = "bar.arrive 1, 64;" if action == "arrive" else "bar.sync 1, 64;"
    body = (
        "mov.u32 w0, s; and.b32 w1, t, 31; shl.b32 w1, w1, 2; add.u32 w0, w0, w1;\n"
        "setp.ge.u32 p, t, 32; @p bra READER;\nst.shared.u32 [w0], t;\n"
        f"{first} bra END;\nREADER: barrier.sync 1, 64; ld.shared.u32 w2, [w0];\n"
        + thread_store("w2")
        + "END: ret;"
    )
    run = Run(body, ZEROS[:64], block=64, shared=".shared .align 4 .b8 s[128];")
    assert run.arrays[0].tolist() == [0] * 32 + list(range(32))


def test_atomics_with_a_result_act_in_the_order_of_the_lanes() -> None:
    run = Run(
        "atom.global.add.u32 w0, [A], 2;" + thread_store("w0", "B") + "ret;",
        np.zeros(1, np.uint32), np.zeros(256, np.uint32), block=64, grid=4,
    )  # fmt: skip
    assert run.arrays[0][0] == 512
    assert sorted(run.arrays[1].tolist()) == list(range(0, 512, 2))


def test_compare_and_swap_takes_turns() -> None:
    """A lock by atom.cas: each thread adds to an unprotected sum while it holds the lock."""
    body = (
        "SPIN: atom.global.cas.b32 w0, [A], 0, 1; setp.ne.u32 p, w0, 0; @p bra SPIN;\n"
        "membar.gl; ld.volatile.global.u32 w1, [B]; add.u32 w1, w1, t;\n"
        "st.volatile.global.u32 [B], w1; membar.gl; atom.global.exch.b32 w0, [A], 0; ret;"
    )
    run = Run(body, np.zeros(1, np.uint32), np.zeros(1, np.uint32), block=8)
    assert run.arrays[1][0] == sum(range(8))


def test_order_of_ctas_does_not_change_a_sum() -> None:
    results = {
        int(
            Run(
                "mad.lo.u32 w0, c, n, t; red.global.add.u32 [A], w0; ret;",
                np.zeros(1, np.uint32), block=64, grid=9, seed=seed, lanes_per_chunk=128,
            ).arrays[0][0]
        )
        for seed in range(4)
    }  # fmt: skip
    assert results == {sum(range(64 * 9))}


def test_a_spin_that_nobody_ends_is_a_timeout_with_its_line() -> None:
    body = "SPIN: ld.volatile.global.u32 w0, [A]; setp.eq.u32 p, w0, 0; @p bra SPIN; ret;"
    with pytest.raises(KernelFault, match="instruction budget of 5000") as caught:
        Run(body, np.zeros(1, np.uint32), budget=5000)
    assert caught.value.kind == "timeout"
    assert "ld.volatile.global" in caught.value.report.ptx_text


@pytest.mark.parametrize("opcode", ["trap", "brkpt"])
def test_trap_ends_the_launch(opcode: str) -> None:
    with pytest.raises(KernelFault) as caught:
        Run(f"setp.eq.u32 p, t, 7; @p {opcode}; ret;", ZEROS[:1])
    assert (caught.value.kind, caught.value.report.thread) == ("trap", (7, 0, 0))


def test_parameters_of_every_width_and_structs() -> None:
    text = (
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, "
        ".param .u8 b, .param .u16 s, .param .f32 f, .param .align 8 .b8 pair[16])\n{\n"
        ".reg .b32 w<9>; .reg .b64 x<5>; .reg .f32 f0; .reg .b16 h<3>;\n"
        "ld.param.u64 x0, [out]; ld.param.u8 w0, [b]; ld.param.u16 w1, [s]; ld.param.f32 f0, [f];\n"
        "cvt.rni.s32.f32 w2, f0; ld.param.u64 x1, [pair]; ld.param.u32 w3, [pair+8];\n"
        "ld.param.v2.u32 {w5, w6}, [pair+8]; mov.u64 x2, pair; ld.param.u32 w7, [x2+12];\n"
        "cvt.u32.u64 w4, x1; st.global.v4.u32 [x0], {w0, w1, w2, w3};\n"
        "st.global.v4.u32 [x0+16], {w4, w5, w6, w7}; ret;\n}\n"
    )
    kernel = parse_ptx(text).kernels["k"]
    memory = Memory(1 << 20)
    out = memory.alloc(32)
    params = struct.pack("<QBxHfQII", out, 200, 40000, -3.0, 77, 88, 99)
    launch(kernel, (1, 1, 1), (1, 1, 1), 0, params, memory, {})
    wanted = [200, 40000, 2**32 - 3, 88, 77, 88, 99, 99]
    assert memory.read(out, 32).view(np.uint32).tolist() == wanted


def test_dynamic_shared_memory_follows_the_static() -> None:
    body = (
        "mov.u32 w0, dyn; shl.b32 w1, t, 2; add.u32 w0, w0, w1; st.shared.u32 [w0], t;\n"
        "mov.u32 w2, %dynamic_smem_size; mov.u32 w3, dyn; add.u32 w2, w2, w3;\n"
    )
    run = Run(
        body + thread_store("w2") + "ret;", ZEROS[:32],
        outside=".extern .shared .align 16 .b8 dyn[];",
        shared=".shared .align 4 .b8 s[20];", dynamic=128,
    )  # fmt: skip
    assert set(run.arrays[0].tolist()) == {32 + 128}


def test_results_do_not_depend_on_the_mode_in_which_lanes_run() -> None:
    """The same work by all lanes, by most of them and by few of them gives the same."""
    work = (
        "mul.wide.u32 x0, t, 4; add.u64 x1, A, x0; ld.global.u32 w0, [x1];\n"
        "mad.lo.u32 w0, w0, 7, t; shl.b32 w1, w0, 3; xor.b32 w0, w0, w1; cvt.rn.f32.u32 f0, w0;\n"
        "fma.rn.f32 f0, f0, 0f3FC00000, f0; cvt.rzi.u32.f32 w2, f0; add.u64 x2, B, x0;\n"
        "st.global.u32 [x2], w2;\n"
    )

    def output(first: int, last: int) -> Any:
        guard = f"sub.u32 w9, t, {first}; setp.ge.u32 p, w9, {last - first}; @p bra END;\n"
        return Run(guard + work + "END: ret;", THREADS, ZEROS, block=1024).arrays[1]

    whole = output(0, 1024)
    for first, last in [(0, 900), (100, 130), (1000, 1024), (5, 6)]:
        part = output(first, last)
        assert part[first:last].tolist() == whole[first:last].tolist()
        assert not part[:first].any()
        assert not part[last:].any()
