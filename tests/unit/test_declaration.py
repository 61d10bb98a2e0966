"""How the build reads a declaration: plain, from a macro, with its types, shapes and limits."""

from __future__ import annotations

import pytest

from pyferrum_kv.build.declaration import Declaration, read_declarations, read_limits
from pyferrum_kv.errors import BuildError

PLAIN = """
// The kernel of every tutorial.
// LIMITS num_elements 1..1024 step 4; block_dim 128
extern "C" __global__ void __launch_bounds__(4 * 32, 2) saxpy(
    const float* __restrict__ x,  // [num_elements]
    float *__restrict__ const y,  // [num_elements, 2], strided
    unsigned char flags,
    const Params params,          // by value
    int num_elements) {           // [not a shape of a parameter list]
    helper(x, y);
}
"""

FAMILY = """
#define APPEND(NAME, half_t)                                 \\
    extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(  \\
        const half_t* __restrict__ k,  /* [num_tokens, 8] */ \\
        i32 num_tokens) {                                    \\
        append<half_t>(k, num_tokens);                       \\
    }
#define WARPS 4
// LIMITS block_dim 128
APPEND(append, f16)
APPEND(append_bf16, bf16)
"""


def declarations(source: str, **headers: str) -> dict[str, Declaration]:
    return read_declarations(source, {f"{n}.cuh": text for n, text in headers.items()}).entries


def ctypes(declaration: Declaration) -> list[str]:
    return [f"{p.ctype} {p.name}" for p in declaration.params]


def test_a_plain_declaration() -> None:
    saxpy = declarations(PLAIN)["saxpy"]
    assert ctypes(saxpy) == [
        "const float* x",
        "float* y",
        "unsigned char flags",
        "Params params",
        "int num_elements",
    ]
    assert [p.shape for p in saxpy.params] == ["[num_elements]", "[num_elements, 2]", "", "", ""]
    assert saxpy.limits.required_threads == (128, 1, 1)
    assert saxpy.limits.dims == {"num_elements": (1, 1024, 4)}


def test_a_family_gives_each_entry_its_own_types() -> None:
    found = declarations(FAMILY)
    assert ctypes(found["append"]) == ["const f16* k", "i32 num_tokens"]
    assert ctypes(found["append_bf16"]) == ["const bf16* k", "i32 num_tokens"]
    assert all(entry.params[0].shape == "[num_tokens, 8]" for entry in found.values())
    assert all(entry.limits.required_threads == (128, 1, 1) for entry in found.values())


def test_a_list_shared_by_a_header() -> None:
    found = declarations(
        '#include "list.cuh"\n'
        '#define KERNEL(NAME, T) extern "C" __global__ void NAME(LIST(T)) {}\n'
        "KERNEL(one, f16)\nKERNEL(two, bf16)\n"
        'extern "C" __global__ void three(\n    LIST(f32)) {\n}\n',
        list='#pragma once\n#include "list.cuh"\n'
        "#define LIST(T) const T* q, /* [a] */ \\\n  T* out /* [b], or null */\n",
    )
    assert {name: ctypes(entry)[0] for name, entry in found.items()} == {
        "one": "const f16* q",
        "two": "const bf16* q",
        "three": "const f32* q",
    }
    assert [p.shape for p in found["three"].params] == ["[a]", "[b]"]


def test_names_are_pasted() -> None:
    found = declarations(
        '#define K(D) extern "C" __global__ void decode_d##D(i32 n) {}\nK(64)\nK(128)\n'
    )
    assert list(found) == ["decode_d64", "decode_d128"]


def test_an_invocation_over_several_lines() -> None:
    found = declarations(
        '#define K(NAME, T) extern "C" __global__ void NAME(T n) {}\nK(one,\n  i64)\nK(two, i32)\n'
    )
    assert ctypes(found["one"]) == ["i64 n"]
    assert ctypes(found["two"]) == ["i32 n"]


def test_limits_above_a_define_hold_for_entries_without_their_own() -> None:
    found = declarations(
        "// LIMITS block_dim 64\n"
        '#define K(NAME) extern "C" __global__ void NAME(i32 n) {}\n'
        "K(one)\n\n// LIMITS block_dim 32\nK(two)\nstatic int between;\nK(three)\n"
    )
    required = {name: entry.limits.required_threads for name, entry in found.items()}
    assert required == {"one": (64, 1, 1), "two": (32, 1, 1), "three": (64, 1, 1)}


def test_limits_above_a_plain_declaration_are_its_own() -> None:
    found = declarations(
        "// LIMITS block_dim 64\n"
        'extern "C" __global__ void one(i32 n) {}\nextern "C" __global__ void two(i32 n) {}\n'
    )
    assert found["one"].limits.required_threads == (64, 1, 1)
    assert found["two"].limits.required_threads is None


def test_every_branch_of_a_condition_is_read() -> None:
    found = declarations(
        '#if __CUDA_ARCH__ >= 900\nextern "C" __global__ void fast(i32 n) {}\n'
        '#else\nextern "C" __global__ void slow(i32 n) {}\n#endif\n'
    )
    assert list(found) == ["fast", "slow"]


def test_what_stands_in_comments_and_mangled_kernels_are_no_entries() -> None:
    assert (
        declarations(
            '// extern "C" __global__ void no(i32 n) {}\n'
            '/* extern "C" __global__ void\n no2(i32 n) {} */\n'
            "template <typename T> __global__ void mangled(T n) {}\n"
            "__global__ void mangled2(i32 n) {}\n"
        )
        == {}
    )


def test_an_entry_without_parameters() -> None:
    assert declarations('extern "C" __global__ void k() {}')["k"].params == ()
    assert declarations('extern "C" __global__ void k(void) {}')["k"].params == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('extern "C" __global__ void k(int) {}', "k: parameter 'int'; wanted a type and a name"),
        ('extern "C" __global__ void k(int& n) {}', "k: parameter 'int & n'; wanted a value"),
        ('extern "C" __global__ void k(int n[4]) {}', r"k: parameter 'int n \[ 4 \]'; wanted"),
        ('extern "C" __global__ void k(int n = 3) {}', "k: parameter 'int n = 3'; wanted"),
        (
            'extern "C" __global__ void k(int n) {}\nextern "C" __global__ void k(float n) {}',
            "k: declared twice, and not the same way",
        ),
        (
            '#define K(A, B) extern "C" __global__ void A(B n) {}\nK(one)',
            "K takes 2 arguments, got 1",
        ),
        ("// LIMITS block_dim 32\nint x;", "a LIMITS comment covers no entry"),
        ("// LIMITS block_dim 32\n", "a LIMITS comment covers no entry"),
        ("// LIMITS block_dim\n", "LIMITS: 'block_dim'; wanted name value"),
    ],
)
def test_mistakes_are_named(source: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        declarations(source)


def test_limits() -> None:
    limits = read_limits(
        " head_dim 8..256 step 8; block_dim 32x4x1; dynamic_shared_bytes 0..101376; q_len 1..8;"
    )
    assert limits.required_threads == (32, 4, 1)
    assert limits.max_dynamic_shared_bytes == 101376
    assert limits.dims == {"head_dim": (8, 256, 8), "q_len": (1, 8, 1)}
    assert read_limits("block_dim 32..256 step 32").dims == {"block_dim": (32, 256, 32)}
    with pytest.raises(BuildError, match="is an empty range"):
        read_limits("head_dim 8..4")
