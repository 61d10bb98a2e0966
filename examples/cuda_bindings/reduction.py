"""A sum through shared memory: one CTA folds 256 values in a tree, one barrier a level.

On a GPU:      python examples/cuda_bindings/reduction.py
Without one:   python -m pyferrum_kv.virtual examples/cuda_bindings/reduction.py
"""

import ctypes

import numpy as np
from cuda.bindings import driver

PTX = b"""
.version 8.0
.target sm_80
.address_size 64

.extern .shared .align 4 .b8 partial[];

.visible .entry block_sum(.param .u64 x, .param .u64 sums, .param .u32 n)
.maxntid 256, 1, 1
{
    .reg .pred %p<4>;
    .reg .f32 %f<5>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<12>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [sums];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    mov.f32 %f1, 0f00000000;
    setp.ge.s32 %p1, %r5, %r1;
    @%p1 bra STORE;
    mul.wide.s32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3;
    ld.global.f32 %f1, [%rd4];
STORE:
    mov.u64 %rd5, partial;
    mul.wide.u32 %rd6, %r4, 4;
    add.s64 %rd7, %rd5, %rd6;
    st.shared.f32 [%rd7], %f1;
    bar.sync 0;
    shr.u32 %r6, %r3, 1;
LEVEL:
    setp.eq.u32 %p2, %r6, 0;
    @%p2 bra WRITE;
    setp.ge.u32 %p3, %r4, %r6;
    @%p3 bra NEXT;
    add.s32 %r7, %r4, %r6;
    mul.wide.u32 %rd8, %r7, 4;
    add.s64 %rd9, %rd5, %rd8;
    ld.shared.f32 %f2, [%rd7];
    ld.shared.f32 %f3, [%rd9];
    add.rn.f32 %f4, %f2, %f3;
    st.shared.f32 [%rd7], %f4;
NEXT:
    bar.sync 0;
    shr.u32 %r6, %r6, 1;
    bra LEVEL;
WRITE:
    setp.ne.u32 %p2, %r4, 0;
    @%p2 bra DONE;
    ld.shared.f32 %f2, [partial];
    mul.wide.u32 %rd10, %r2, 4;
    add.s64 %rd11, %rd2, %rd10;
    st.global.f32 [%rd11], %f2;
DONE:
    ret;
}
\0"""

THREADS = 256


def ok(answer):
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver answered {status!r}")
    return values[0] if len(values) == 1 else values


def tree_sum(x):
    """The same fold in NumPy: float addition does not commute with regrouping."""
    rows = np.zeros(-(-x.size // THREADS) * THREADS, np.float32)
    rows[: x.size] = x
    rows = rows.reshape(-1, THREADS)
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = rows[:, :half] + rows[:, half:]
    return rows[:, 0]


x = np.random.default_rng(4).standard_normal(5000).astype(np.float32)
num_ctas = -(-x.size // THREADS)
sums = np.empty(num_ctas, np.float32)

ok(driver.cuInit(0))
device = ok(driver.cuDeviceGet(0))
context = ok(driver.cuDevicePrimaryCtxRetain(device))
ok(driver.cuCtxSetCurrent(context))
module = ok(driver.cuModuleLoadData(PTX))
block_sum = ok(driver.cuModuleGetFunction(module, b"block_sum"))

dx, dsums = ok(driver.cuMemAlloc(x.nbytes)), ok(driver.cuMemAlloc(sums.nbytes))
ok(driver.cuMemcpyHtoD(dx, x, x.nbytes))
config = driver.CUlaunchConfig()
config.gridDimX, config.gridDimY, config.gridDimZ = num_ctas, 1, 1
config.blockDimX, config.blockDimY, config.blockDimZ = THREADS, 1, 1
config.sharedMemBytes = 4 * THREADS
arguments = (int(dx), int(dsums), x.size), (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
ok(driver.cuLaunchKernelEx(config, block_sum, arguments, 0))
ok(driver.cuMemcpyDtoH(sums, dsums, sums.nbytes))

for pointer in (dx, dsums):
    ok(driver.cuMemFree(pointer))
ok(driver.cuModuleUnload(module))
ok(driver.cuDevicePrimaryCtxRelease(device))

assert np.array_equal(sums, tree_sum(x))
print(f"reduction: {num_ctas} sums, checksum {sums.view(np.uint32).sum(dtype=np.uint64):#x}")
