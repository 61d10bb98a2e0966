"""A declaration held against the PTX: agreement gives a signature, a difference fails the build."""

from __future__ import annotations

import pytest

from pyferrum_kv.build.declaration import read_declarations
from pyferrum_kv.build.signatures import signature
from pyferrum_kv.errors import BuildError
from pyferrum_kv.ptx_reader import read_ptx
from pyferrum_kv.signature import Signature

TYPES = "typedef signed char code_t;\nusing index_t = long long;\ntypedef index_t offset_t;\n"


def agree(declared: str, ptx_params: str, *, above: str = "", performance: str = "") -> Signature:
    source = f'{TYPES}{above}\nextern "C" __global__ void k({declared}) {{}}\n'
    found = read_declarations(source, {})
    head = ".version 8.0\n.target sm_80\n"
    text = f"{head}.entry k({ptx_params})\n{performance}\n{{ret;}}"
    return signature(found.entries["k"], read_ptx(text).entries["k"], found.typedefs)


@pytest.mark.parametrize(
    ("declared", "ptx", "expected"),
    [
        ("const f16* q", ".param .u64 p", ("pointer", "const f16*", "f16", True)),
        ("float* y", ".param .u64 p", ("pointer", "float*", "f32", False)),
        ("const code_t* c", ".param .u64 p", ("pointer", "const code_t*", "i8", True)),
        ("void* any", ".param .u64 p", ("pointer", "void*", "void", False)),
        ("Node* node", ".param .u64 p", ("pointer", "Node*", "Node", False)),
        ("float** rows", ".param .u64 p", ("pointer", "float**", "f32*", False)),
        ("i32 n", ".param .u32 p", ("int", "i32", "", False)),
        ("unsigned n", ".param .u32 p", ("uint", "unsigned", "", False)),
        ("unsigned char n", ".param .u8 p", ("uint", "unsigned char", "", False)),
        ("bool n", ".param .u8 p", ("uint", "bool", "", False)),
        ("offset_t n", ".param .u64 p", ("int", "offset_t", "", False)),
        ("size_t n", ".param .u64 p", ("uint", "size_t", "", False)),
        ("const double x", ".param .f64 p", ("float", "double", "", False)),
        ("f16 x", ".param .align 2 .b8 p[2]", ("float", "f16", "", False)),
        ("Params s", ".param .align 8 .b8 p[24]", ("struct", "Params", "", False)),
        ("const __grid_constant__ P s", ".param .align 8 .b8 p[24]", ("struct", "P", "", False)),
    ],
)
def test_agreement(declared: str, ptx: str, expected: tuple[str, str, str, bool]) -> None:
    (param,) = agree(declared, ptx).params
    assert (param.kind, param.ctype, param.pointee, param.is_const) == expected


def test_offsets_are_the_ptx_ones() -> None:
    params = agree("u8 a, f64 b", ".param .u8 x, .param .f64 y").params
    assert [(p.name, p.offset, p.size_bytes) for p in params] == [("a", 0, 1), ("b", 8, 8)]


@pytest.mark.parametrize(
    ("declared", "ptx", "message"),
    [
        ("i32 a, i32 b", ".param .u32 x", "the declaration has 2 parameters, the PTX has 1"),
        ("i32 a", ".param .u64 x", r"'a' is i32 \(int, 4 bytes\).*the PTX has bits, 8 bytes"),
        ("i32 a", ".param .f32 x", r"'a' is i32 .*the PTX has float, 4 bytes"),
        ("f32 a", ".param .u32 x", r"'a' is f32 .*the PTX has bits, 4 bytes"),
        ("f32* a", ".param .u32 x", r"'a' is f32\* \(pointer, 8 bytes\).*4 bytes"),
        ("f32* a", ".param .f64 x", r"'a' is f32\* .*the PTX has float"),
        ("Mode a", ".param .u32 x", "'a' has type Mode, which is not known here"),
    ],
)
def test_a_difference_fails_the_build(declared: str, ptx: str, message: str) -> None:
    with pytest.raises(BuildError, match=f"^k: .*{message}"):
        agree(declared, ptx)


def test_limits_come_from_both() -> None:
    limits = agree(
        "i32 n",
        ".param .u32 x",
        above="// LIMITS block_dim 64; dynamic_shared_bytes 0..4096",
        performance=".maxntid 128, 1, 1",
    ).limits
    assert (limits.max_threads, limits.required_threads) == (128, (64, 1, 1))
    assert limits.max_dynamic_shared_bytes == 4096


def test_limits_beyond_the_launch_bounds_fail_the_build() -> None:
    with pytest.raises(
        BuildError, match="LIMITS asks for 256 threads; __launch_bounds__ allows 128"
    ):
        agree("", "", above="// LIMITS block_dim 256", performance=".maxntid 128, 1, 1")
