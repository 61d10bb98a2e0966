"""Small PTX modules that tests load: each entry does one thing that can be checked."""

from __future__ import annotations

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"

AXPY = (
    HEADER
    + """
.visible .const .align 4 .f32 bias[2] = {0f00000000, 0f3F800000};
.visible .global .align 4 .u32 calls;

// y[i] = y[i] + a * x[i] + bias[0], i < n
.visible .entry axpy(.param .u64 x, .param .u64 y, .param .u32 n, .param .f32 a)
.maxntid 256, 1, 1
{
    .reg .pred %p;
    .reg .b32 %r<5>;
    .reg .b64 %rd<6>;
    .reg .f32 %f<6>;
    ld.param.u64 %rd0, [x];
    ld.param.u64 %rd1, [y];
    ld.param.u32 %r0, [n];
    ld.param.f32 %f0, [a];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    setp.ge.s32 %p, %r4, %r0;
    @%p bra DONE;
    cvta.to.global.u64 %rd0, %rd0;
    cvta.to.global.u64 %rd1, %rd1;
    mul.wide.s32 %rd2, %r4, 4;
    add.s64 %rd3, %rd0, %rd2;
    add.s64 %rd4, %rd1, %rd2;
    ld.global.f32 %f1, [%rd3];
    ld.global.f32 %f2, [%rd4];
    fma.rn.f32 %f3, %f0, %f1, %f2;
    ld.const.f32 %f4, [bias];
    add.f32 %f5, %f3, %f4;
    st.global.f32 [%rd4], %f5;
DONE:
    ret;
}
"""
)

STORE_ALL = (
    HEADER
    + """
// every parameter to out, each at an offset of its own: a wrong width or order shows
.visible .entry store_all(
    .param .u64 out,
    .param .u8 a,
    .param .u16 b,
    .param .u32 c,
    .param .u64 d,
    .param .f32 e,
    .param .f64 f,
    .param .align 4 .b8 g[12]
)
{
    .reg .b16 %h<2>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd0, [out];
    cvta.to.global.u64 %rd0, %rd0;
    ld.param.u8 %h0, [a];
    st.global.u8 [%rd0], %h0;
    ld.param.u16 %h1, [b];
    st.global.u16 [%rd0+2], %h1;
    ld.param.u32 %r0, [c];
    st.global.u32 [%rd0+4], %r0;
    ld.param.u64 %rd1, [d];
    st.global.u64 [%rd0+8], %rd1;
    ld.param.b32 %r1, [e];
    st.global.b32 [%rd0+16], %r1;
    ld.param.b64 %rd2, [f];
    st.global.b64 [%rd0+24], %rd2;
    ld.param.b32 %r2, [g];
    st.global.b32 [%rd0+32], %r2;
    ld.param.b32 %r3, [g+4];
    st.global.b32 [%rd0+36], %r3;
    ld.param.b32 %r4, [g+8];
    st.global.b32 [%rd0+40], %r4;
    ret;
}
"""
)

OUT_OF_BOUNDS = (
    HEADER
    + """
.visible .entry stray_store(.param .u64 ptr)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd0, [ptr];
    mov.u32 %r0, 1;
    st.global.u32 [%rd0], %r0;
    ret;
}
"""
)

SPIN = (
    HEADER
    + """
// busy until `ns` nanoseconds have passed
.visible .entry spin(.param .u64 ns)
{
    .reg .pred %p;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd0, [ns];
    mov.u64 %rd1, %globaltimer;
LOOP:
    mov.u64 %rd2, %globaltimer;
    sub.s64 %rd3, %rd2, %rd1;
    setp.lt.u64 %p, %rd3, %rd0;
    @%p bra LOOP;
    ret;
}
"""
)

CLUSTER = """.version 8.0
.target sm_90
.address_size 64

// out[ctaid] = rank in the cluster * 100 + CTAs of a cluster
.visible .entry cluster_rank(.param .u64 out)
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd0, [out];
    cvta.to.global.u64 %rd0, %rd0;
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %cluster_ctarank;
    mov.u32 %r2, %cluster_nctarank;
    mad.lo.u32 %r3, %r1, 100, %r2;
    mul.wide.u32 %rd1, %r0, 4;
    add.s64 %rd2, %rd0, %rd1;
    st.global.u32 [%rd2], %r3;
    ret;
}

// the second kernel of a programmatic dependent launch: waits, then out[0] = out[0] * 2 + 1
.visible .entry dependent(.param .u64 out)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd0, [out];
    cvta.to.global.u64 %rd0, %rd0;
    griddepcontrol.wait;
    ld.global.u32 %r0, [%rd0];
    mad.lo.u32 %r1, %r0, 2, 1;
    st.global.u32 [%rd0], %r1;
    griddepcontrol.launch_dependents;
    ret;
}
"""

SHARED = (
    HEADER
    + """
.extern .shared .align 16 .b8 dynamic[];

// out[0] = the last word of the dynamic shared memory, written first
.visible .entry last_word(.param .u64 out, .param .u32 num_bytes)
{
    .reg .b32 %r<6>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd0, [out];
    cvta.to.global.u64 %rd0, %rd0;
    ld.param.u32 %r0, [num_bytes];
    mov.u32 %r1, dynamic;
    add.u32 %r2, %r1, %r0;
    mov.u32 %r3, 77;
    st.shared.u32 [%r2+-4], %r3;
    ld.shared.u32 %r4, [%r2+-4];
    st.global.u32 [%rd0], %r4;
    ret;
}
"""
)
