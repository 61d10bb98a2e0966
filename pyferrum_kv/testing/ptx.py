"""PTX texts that the checks load: small, and by hand, so that nothing has to compile them."""

from __future__ import annotations

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"

VECTOR_ADD = (
    HEADER
    + """
.visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.s32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd1, %rd1;
    cvta.to.global.u64 %rd2, %rd2;
    cvta.to.global.u64 %rd3, %rd3;
    mul.wide.s32 %rd4, %r5, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}
"""
)
"""vector_add(const float *a, const float *b, float *c, int n): c[i] = a[i] + b[i]."""

STORE = (
    HEADER
    + """
.global .align 4 .u32 counter = 5;

.visible .entry store(.param .u64 address, .param .u32 value)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [address];
    ld.param.u32 %r1, [value];
    st.global.u32 [%rd1], %r1;
    ret;
}

.visible .entry multiply(.param .u64 address, .param .u32 factor)
.maxntid 64, 1, 1
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [address];
    ld.param.u32 %r1, [factor];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r3, [%rd3];
    mul.lo.u32 %r4, %r3, %r1;
    st.global.u32 [%rd3], %r4;
    ret;
}
"""
)
"""store(u32 *address, u32 value); multiply(u32 *x, u32 factor) by at most 64 threads."""

SHARED = (
    HEADER
    + """
.extern .shared .align 16 .b8 dynamic[];

.visible .entry reverse(.param .u64 address, .param .u32 count)
{
    .shared .align 4 .b8 fixed[256];
    .reg .b32 %r<9>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [address];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r3, [%rd3];
    mov.u64 %rd4, dynamic;
    add.s64 %rd5, %rd4, %rd2;
    st.shared.u32 [%rd5], %r3;
    bar.sync 0;
    sub.s32 %r4, %r1, %r2;
    add.s32 %r5, %r4, -1;
    mul.wide.u32 %rd6, %r5, 4;
    add.s64 %rd7, %rd4, %rd6;
    ld.shared.u32 %r6, [%rd7];
    st.global.u32 [%rd3], %r6;
    ret;
}
"""
)
"""reverse(unsigned *x, unsigned count): one CTA of `count` threads, 4 * count dynamic bytes."""

FAULTS = (
    HEADER
    + """
.visible .entry copy(.param .u64 from, .param .u64 to)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [from];
    ld.param.u64 %rd2, [to];
    ld.global.u32 %r1, [%rd1];
    st.global.u32 [%rd2], %r1;
    ret;
}

.visible .entry copy_wide(.param .u64 from, .param .u64 to)
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [from];
    ld.param.u64 %rd2, [to];
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
    st.global.v4.u32 [%rd2], {%r1, %r2, %r3, %r4};
    ret;
}

.visible .entry through_shared(.param .u64 offset, .param .u64 to)
{
    .shared .align 16 .b8 room[64];
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [offset];
    ld.param.u64 %rd2, [to];
    mov.u32 %r1, room;
    cvt.u32.u64 %r2, %rd1;
    add.s32 %r1, %r1, %r2;
    st.shared.u32 [%r1], %r2;
    ld.shared.u32 %r3, [%r1];
    st.global.u32 [%rd2], %r3;
    ret;
}

.visible .entry stop(.param .u64 unused, .param .u64 to)
{
    trap;
    ret;
}
"""
)
"""copy(from, to) of a word, copy_wide of four, through_shared(offset, to), stop() by a trap."""

_SCALARS = (("u8", "rs"), ("u16", "rs"), ("u32", "r"), ("u64", "rd"), ("f32", "f"), ("f64", "fd"))


def arguments_ptx() -> str:
    """echo(u64 out, u8, u16, u32, u64, f32, f64, 12-byte struct): writes each argument to `out`.

    Argument i of the scalars lies at out + 16 * i, the structure at out + 96.
    """
    params = ["    .param .u64 out"]
    body = ["    ld.param.u64 %rd1, [out];"]
    for i, (kind, register) in enumerate(_SCALARS):
        params.append(f"    .param .{kind} a{i}")
        body.append(f"    ld.param.{kind} %{register}2, [a{i}];")
        body.append(f"    st.global.{kind} [%rd1+{16 * i}], %{register}2;")
    params.append("    .param .align 4 .b8 whole[12]")
    for word in range(3):
        body.append(f"    ld.param.u32 %r3, [whole+{4 * word}];")
        body.append(f"    st.global.u32 [%rd1+{96 + 4 * word}], %r3;")
    registers = (
        "    .reg .b16 %rs<4>;\n    .reg .b32 %r<4>;\n    .reg .b64 %rd<4>;\n"
        "    .reg .f32 %f<4>;\n    .reg .f64 %fd<4>;\n"
    )
    joined = ",\n".join(params)
    return f"{HEADER}\n.visible .entry echo(\n{joined})\n{{\n{registers}" + "\n".join(
        [*body, "    ret;\n}\n"]
    )
