"""Vector addition, written only against cuda.bindings.driver.

On a GPU:      python examples/cuda_bindings/vector_add.py
Without one:   python -m pyferrum_kv.virtual examples/cuda_bindings/vector_add.py
"""

import ctypes

import numpy as np
from cuda.bindings import driver

PTX = b"""
.version 8.0
.target sm_80
.address_size 64

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
    mul.wide.s32 %rd4, %r5, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.rn.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}
\0"""


def ok(answer):
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver answered {status!r}")
    return values[0] if len(values) == 1 else values


n = 10_000
rng = np.random.default_rng(3)
a, b = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
c = np.empty(n, np.float32)

ok(driver.cuInit(0))
device = ok(driver.cuDeviceGet(0))
context = ok(driver.cuDevicePrimaryCtxRetain(device))
ok(driver.cuCtxSetCurrent(context))
stream = ok(driver.cuStreamCreate(0))
module = ok(driver.cuModuleLoadData(PTX))
vector_add = ok(driver.cuModuleGetFunction(module, b"vector_add"))

da, db, dc = (ok(driver.cuMemAlloc(4 * n)) for _ in range(3))
ok(driver.cuMemcpyHtoDAsync(da, a, a.nbytes, stream))
ok(driver.cuMemcpyHtoDAsync(db, b, b.nbytes, stream))
arguments = (int(da), int(db), int(dc), n), (ctypes.c_void_p,) * 3 + (ctypes.c_int,)
ok(driver.cuLaunchKernel(vector_add, -(-n // 256), 1, 1, 256, 1, 1, 0, stream, arguments, 0))
ok(driver.cuMemcpyDtoHAsync(c, dc, c.nbytes, stream))
ok(driver.cuStreamSynchronize(stream))

for pointer in (da, db, dc):
    ok(driver.cuMemFree(pointer))
ok(driver.cuModuleUnload(module))
ok(driver.cuStreamDestroy(stream))
ok(driver.cuDevicePrimaryCtxRelease(device))

assert np.array_equal(c, a + b)
print(f"vector_add: {n} sums, checksum {c.view(np.uint32).sum(dtype=np.uint64):#x}")
