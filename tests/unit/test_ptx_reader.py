"""What PTX text tells: sizes, offsets, limits; and what is refused, with its line."""

from __future__ import annotations

import pytest

from pyferrum_kv.ptx_reader import PtxSyntaxError, read_ptx

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"


def entry(params: str, body: str = "ret;", performance: str = "", before: str = "") -> str:
    return f"{HEADER}{before}\n.visible .entry k({params})\n{performance}\n{{\n{body}\n}}\n"


def shape_of(params: str) -> list[tuple[str, int, int]]:
    signature = read_ptx(entry(params)).entries["k"]
    return [(p.kind, p.size_bytes, p.offset) for p in signature.params]


def test_header() -> None:
    info = read_ptx("// made by\n.version 8.4\n.target sm_90a, texmode_independent\n")
    assert (info.version, info.target, info.address_size) == ((8, 4), "sm_90a", 32)
    assert info.entries == {}


def test_parameters_have_size_kind_and_aligned_offset() -> None:
    assert shape_of(
        ".param .u64 a, .param .u8 b, .param .f64 c, .param .u16 d, .param .f32 e, .param .s8 f"
    ) == [
        ("bits", 8, 0),
        ("bits", 1, 8),
        ("float", 8, 16),
        ("bits", 2, 24),
        ("float", 4, 28),
        ("bits", 1, 32),
    ]


def test_a_struct_takes_its_alignment() -> None:
    assert shape_of(".param .u8 a, .param .align 16 .b8 s[24], .param .u8 b") == [
        ("bits", 1, 0),
        ("struct", 24, 16),
        ("bits", 1, 40),
    ]


def test_a_pointer_attribute_makes_a_pointer() -> None:
    assert shape_of(".param .u64 .ptr .global .align 16 a") == [("pointer", 8, 0)]


def test_an_entry_without_parameters() -> None:
    assert read_ptx(f"{HEADER}.entry k\n{{ ret; }}").entries["k"].params == ()
    assert shape_of("") == []


def test_comments_and_strings_are_no_code() -> None:
    text = entry(
        ".param .u32 a /* , .param .u64 no */, // .param .u64 neither\n .param .f32 b",
        body='// }\n/* } */ .file 1 "a}b"\n ret;',
    )
    assert [p.name for p in read_ptx(text).entries["k"].params] == ["a", "b"]


def test_thread_limits() -> None:
    limits = (
        read_ptx(entry("", performance=".maxntid 32, 4, 2 .minnctapersm 2")).entries["k"].limits
    )
    assert (limits.max_threads, limits.required_threads) == (256, None)
    limits = read_ptx(entry("", performance=".reqntid 64")).entries["k"].limits
    assert (limits.max_threads, limits.required_threads) == (None, (64, 1, 1))


def test_static_shared_memory_counts_what_the_entry_holds_or_names() -> None:
    text = entry(
        "",
        before=".shared .align 4 .b8 used[6];\n.shared .b8 other[999];\n"
        ".extern .shared .align 16 .b8 dynamic[];",
        body=".shared .align 8 .f64 mine[4];\nmov.u64 %rd1, used;\nld.shared.f64 %fd1, [mine];",
    )
    assert read_ptx(text).entries["k"].limits.static_shared_bytes == 8 + 32


def test_entries_stay_in_order_and_a_prototype_is_none() -> None:
    text = HEADER + ".entry b(.param .u32 x);\n.entry a {ret;}\n.entry b(.param .u32 x) {{ret;}}\n"
    assert list(read_ptx(text).entries) == ["a", "b"]


def test_a_trailing_nul_is_ignored() -> None:
    assert list(read_ptx(entry("") + "\0").entries) == ["k"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "no .version"),
        ("\x7fELF\x02\x01", 1, "is this PTX"),
        (".version 8.0\n", 1, "no .target"),
        (HEADER + "/* open", 4, "never closed"),
        (HEADER + "/*/", 4, "never closed"),
        (HEADER + ".entry k(.param .u32 a", 4, "parameter list of k is never closed"),
        (HEADER + ".entry k()\n.maxntid 3", 4, "entry k has no body"),
        (HEADER + ".entry k()\n{ {ret;}", 5, "body of k is never closed"),
        (HEADER + ".entry k(\n.param .u32 a,\n .param .texref b) {}", 6, "is no parameter"),
        (HEADER + ".entry k(\n.param .u32 a,\n) {}", 6, "is no parameter"),
        (HEADER + ".entry k(.param .align 3 .b8 a[4]) {}", 4, "alignment is 3"),
        (HEADER + ".entry k(.param .b8 a[99999999]) {}", 4, "more than 32764 bytes"),
        (HEADER + ".entry k {}\n.entry k {}", 5, "defined twice"),
    ],
)
def test_what_is_no_ptx_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(PtxSyntaxError, match=message) as caught:
        read_ptx(text)
    assert caught.value.line == line
