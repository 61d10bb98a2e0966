"""Copies of device memory, as the ceiling of what only moves bytes.

`copy` is a kernel: each thread moves sixteen bytes, read once and not kept in L1. A driver's own
copy (cuMemcpyDtoDAsync) is the other ceiling; which of the two is higher depends on the size.
"""

from __future__ import annotations

from pyferrum_kv import CudaContext, CudaFunction, CudaSlice, CudaStream, CudaView, LaunchConfig

_THREADS = 256
_PTX = """.version 7.4
.target sm_80
.address_size 64
.visible .entry copy(.param .u64 copy_src, .param .u64 copy_dst, .param .u64 copy_count)
.maxntid 256, 1, 1
{
    .reg .pred %p;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd0, [copy_src];
    ld.param.u64 %rd1, [copy_dst];
    ld.param.u64 %rd2, [copy_count];
    cvta.to.global.u64 %rd0, %rd0;
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %ntid.x;
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd3, %r0, %r1;
    cvt.u64.u32 %rd4, %r2;
    add.s64 %rd3, %rd3, %rd4;
    setp.ge.u64 %p, %rd3, %rd2;
    @%p bra DONE;
    shl.b64 %rd3, %rd3, 4;
    add.s64 %rd0, %rd0, %rd3;
    add.s64 %rd1, %rd1, %rd3;
    ld.global.nc.L1::no_allocate.v4.u32 {%r4, %r5, %r6, %r7}, [%rd0];
    st.global.v4.u32 [%rd1], {%r4, %r5, %r6, %r7};
DONE:
    ret;
}
"""


def copy_kernel(ctx: CudaContext) -> CudaFunction:
    return ctx.load_module(_PTX, name="copy.ptx").function("copy")


def launch_copy(
    stream: CudaStream, function: CudaFunction, src: CudaSlice | CudaView, dst: CudaSlice | CudaView
) -> None:
    """Copy src to dst, of one size in bytes, a multiple of sixteen."""
    count = src.num_bytes // 16
    grid = (-(-count // _THREADS), 1, 1)
    builder = stream.launch_builder(function).arg(src).arg(dst).arg(count)
    builder.launch(LaunchConfig(grid_dim=grid, block_dim=(_THREADS, 1, 1)))
