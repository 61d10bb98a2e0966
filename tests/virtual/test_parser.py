"""PTX text -> Program: what is read, what is refused with its line, what is only not emulated."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv.ptx_reader import PtxSyntaxError
from pyferrum_kv.virtual.parser import parse_ptx
from pyferrum_kv.virtual.program import Address, Imm, Pair, Reg, Symbol, Vector

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
ENTRY = (
    HEADER + ".visible .entry k(.param .u64 out)\n{{\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n{}\n}}\n"
)
FIRST_LINE = 8  # where the body of ENTRY begins


def kernel_of(body: str):  # type: ignore[no-untyped-def]
    return parse_ptx(ENTRY.format(body)).kernels["k"]


def test_the_same_text_is_parsed_once() -> None:
    text = ENTRY.format("ret;")
    assert parse_ptx(text) is parse_ptx(text)
    assert len(parse_ptx(text).sha256) == 64


def test_header_files_and_source_lines() -> None:
    text = ENTRY.format(
        ".loc 1 12 5\nmov.u32 %r1, 0;\n.loc 1 13 1, function_name x, inlined_at 1 2 3\nret;"
    )
    program = parse_ptx(
        text + '.file 1 "/abs/kernels/k.cu"\n.section .debug_str\n{\nx:\n.b8 1,2\n}\n'
    )
    kernel = program.kernels["k"]
    assert (program.version, program.target) == ((8, 0), "sm_80")
    assert [kernel.source_line(i) for i in kernel.instructions] == ["k.cu:12", "k.cu:13"]
    assert [i.line for i in kernel.instructions] == [FIRST_LINE + 1, FIRST_LINE + 3]


def test_operands_of_every_kind() -> None:
    kernel = kernel_of(
        ".reg .pred p; .reg .f32 f;\n"
        "L: setp.ne.and.s32 p|_, %r1, -5, !p;\n@!p bra L;\n"
        "ld.global.v2.u32 {%r2, _}, [%rd1+-16];\nst.global.f32 [%rd2], 0f3F800000;\n"
        "ld.param.u64 %rd3, [out+0];\nmov.u32 %r3, %tid.x; mov.u32 %r4, 0x1F; mov.u32 %r5, 017;\n"
        "ret;"
    )
    setp, bra, load, store, param, tid, hexadecimal, octal, _ = kernel.instructions
    assert isinstance(setp.operands[0], Pair)
    assert setp.operands[2] == Imm(-5)
    assert (bra.guard[0].name, bra.guard[1], bra.operands[0]) == ("p", False, Symbol("L"))
    assert isinstance(load.operands[0], Vector)
    assert load.operands[1].offset == -16
    assert store.operands[1] == Imm(0x3F800000, 4)
    assert param.operands[1] == Address(Symbol("out"), 0)
    assert tid.operands[1].name == "%tid.x"
    assert (hexadecimal.operands[1], octal.operands[1]) == (Imm(31), Imm(15))
    assert kernel.labels == {"L": 0}


def test_variables_are_laid_out_and_initialised() -> None:
    text = (
        HEADER + ".extern .shared .align 16 .b8 dyn[];\n.shared .align 4 .b8 unused[400];\n"
        ".const .align 4 .b32 c[3] = {1, -1, 0x10};\n.global .f32 pi = 0f40490FDB;\n"
        ".global .u64 p = generic(c)+4;\n.global .align 8 .b8 zero[12];\n"
        ".visible .entry k()\n{\n.shared .align 8 .b8 a[5];\n.shared .f32 b;\n.local .b8 d[7];\n"
        ".reg .b32 %r<3>;\nmov.u32 %r1, dyn;\nret;\n}\n"
    )
    program = parse_ptx(text)
    kernel = program.kernels["k"]
    assert {n: kernel.offsets[n] for n in ("a", "b", "dyn", "d")} == {
        "a": 0,
        "b": 8,
        "dyn": 16,
        "d": 0,
    }
    assert (kernel.shared_bytes, kernel.local_bytes) == (16, 7)
    assert program.globals["c"].init == b"\1\0\0\0\xff\xff\xff\xff\x10\0\0\0"
    assert program.globals["pi"].init == b"\xdb\x0f\x49\x40"
    assert program.globals["p"].relocations == ((0, Symbol("c", 4), True),)
    assert (program.globals["zero"].num_bytes, program.globals["zero"].init) == (12, b"")


def test_registers_of_inner_scopes_end_with_them() -> None:
    kernel = kernel_of("{ .reg .b32 x; mov.u32 x, 1; }\n{ .reg .b64 x; mov.u64 x, 1; }\nret;")
    targets = [i.operands[0] for i in kernel.instructions[:2]]
    assert [t.type for t in targets if isinstance(t, Reg)] == ["b32", "b64"]
    with pytest.raises(PtxSyntaxError, match="x is not declared"):
        kernel_of("{ .reg .b32 x; mov.u32 x, 1; }\nadd.u32 %r1, %r1, x;\nret;")


def test_a_label_holds_in_its_scope_and_may_be_written_again_in_another() -> None:
    kernel = kernel_of(
        "bra L;\n{ L: bra L; { bra L; { L: bra L; } } }\n{ bra L; L: bra OUT; }\nL: OUT: ret;"
    )
    at = [kernel.labels[i.operands[0].name] for i in kernel.instructions if i.operands]
    assert at == [6, 1, 1, 3, 5, 6]


def test_a_list_of_branch_targets_means_the_labels_of_its_scope() -> None:
    copy = "{ T: .branchtargets A, B;\nbrx.idx %r1, T; A: mov.u32 %r1, 0; B: mov.u32 %r1, 1; }\n"
    kernel = kernel_of(copy + copy + "ret;")
    lists = [kernel.branch_lists[i.operands[1].name] for i in kernel.instructions[:6:3]]
    assert [[kernel.labels[name] for name in names] for names in lists] == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("add.s32 %r1, %r2;", "has 2 operands; wanted 3"),
        ("add.s32 %r1, %r2, %r9;", "%r9 is not declared"),
        ("add.s64 %rd1, %rd2, %r1;", "%r1 is .b32; wanted .u64"),
        ("ld.global.u32 %r1, [%r2];", "wanted .b64"),
        ("ld.global.u64 %r1, [%rd1];", "wanted .u64"),
        ("ld.global.v2.u32 %r1, [%rd1];", "wanted a vector of 2"),
        ("setp.lt.s32 %r1, %r2, %r3;", "wanted .pred"),
        ("@%r1 bra L;", "wanted .pred"),
        ("bra NOWHERE;", "NOWHERE is not declared"),
        ("mov.u32 %r1, nothing;", "nothing is not declared"),
        ("mov.u32 5, %r1;", "a result must be a register"),
        ("bra out;", "out is not declared as a label"),
        ("L: ret; L: ret;", "L is defined twice"),
        ("bra INNER; { INNER: mov.u32 %r1, 0; }", "INNER is not declared as a label"),
        ("mov.u32 %r1, %cluster_rank;", "%cluster_rank is not declared"),
        (".reg .b33 x;", "is no register type"),
        (".nonsense 5;", "no PTX directive"),
        ("add.s32 %r1 %r2 %r3;", "is no operand"),
        ("=", "is no PTX instruction"),
        ("ad.s32 %r1, %r2, %r3;", "ad is no PTX opcode"),
        ("mov.b64 %rd1, {%r1, %r2, %r3};", "3 parts do not make"),
    ],
)
def test_broken_statements_are_refused_with_their_line(statement: str, message: str) -> None:
    with pytest.raises(PtxSyntaxError) as caught:
        kernel_of(f"mov.u32 %r0, 0;\n{statement}\nret;")
    assert message in caught.value.message
    assert caught.value.line == FIRST_LINE + 1


@pytest.mark.parametrize(
    "text", ["", "hello", HEADER + "nonsense;", HEADER + ".visible .entry k()\n{\nret;"]
)
def test_what_is_no_ptx_is_refused(text: str) -> None:
    with pytest.raises(PtxSyntaxError):
        parse_ptx(text)


@pytest.mark.parametrize(
    "statement",
    [
        "wgmma.fence.sync.aligned;",
        "add.cc.u32 %r1, %r2, %r3;",
        "add.rz.f64 %rd1, %rd2, %rd3;",
        "ld.global.L2::cache_hint.u32 %r1, [%rd1], %rd2;",
        "mbarrier.init.shared.b64 [%rd1], 1;",
        "cp.async.bulk.commit_group;",
        "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%r1], [%rd1, {%r2}], [%r3];",
        "prefetch.tensormap [%rd1];",
        "fence.mbarrier_init.release.cluster;",
        "mapa.shared::cluster.u32 %r1, %r2, %r3;",
        "barrier.cluster.arrive.aligned;",
        "ld.shared::cluster.f32 %r1, [%r2];",
        "mov.u32 %r1, %cluster_ctarank;",
        "mov.u32 %r1, %clusterid.x;",
        "mov.pred q, %is_explicit_cluster;",
        "mov.u64 %rd1, %current_graph_exec;",
        "tex.2d.v4.f32.f32 {%r1, %r2, %r3, %r4}, [t, {%r1, %r2}];",
        "atom.global.add.v2.f32 %rd1, [%rd2], %rd3;",
        "shfl.bfly.b32 %r1, %r2, 1, 31;",
        "min.xorsign.abs.f32 %r1, %r2, %r3;",
        "cvt.rn.e4m3x2.f32 %r1, %r2, %r3;",
        "call.uni (x), f, (y);",
    ],
)
def test_what_is_not_emulated_is_told_with_line_and_opcode(statement: str) -> None:
    kernel = kernel_of(f"mov.u32 %r0, 0;\n{statement}\nret;")
    assert [line for line, _ in kernel.unsupported] == [FIRST_LINE + 1]
    assert statement.rstrip(";").split()[0] in kernel.unsupported[0][1]


@given(st.integers(0, 3000), st.sampled_from(["{", "}", ";", "%", "[", "0f", "\0", "@", "\n"]))
def test_damaged_text_is_parsed_or_refused_and_nothing_else(at: int, piece: str) -> None:
    text = ENTRY.format(
        "L: add.s32 %r1, %r2, 3;\nld.global.v2.u32 {%r1, %r2}, [%rd1+4];\n@%p bra L;" * 3
    )
    at %= len(text)
    with suppress(PtxSyntaxError):
        parse_ptx(text[:at] + piece + text[at + 1 :])
