"""A graph of two kernels, captured once and launched three times.

On a GPU:      python examples/cuda_bindings/two_kernel_graph.py
Without one:   python -m pyferrum_kv.virtual examples/cuda_bindings/two_kernel_graph.py
"""

import ctypes

import numpy as np
from cuda.bindings import driver

PTX = b"""
.version 8.0
.target sm_80
.address_size 64

.visible .entry scale(.param .u64 x, .param .f32 factor)
{
    .reg .f32 %f<4>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [x];
    ld.param.f32 %f1, [factor];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.s32 %rd2, %r4, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f2, [%rd3];
    mul.rn.f32 %f3, %f2, %f1;
    st.global.f32 [%rd3], %f3;
    ret;
}

.visible .entry add_one(.param .u64 x)
{
    .reg .f32 %f<3>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.s32 %rd2, %r4, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f1, [%rd3];
    add.rn.f32 %f2, %f1, 0f3F800000;
    st.global.f32 [%rd3], %f2;
    ret;
}
\0"""

N, THREADS, FACTOR, LAUNCHES = 1024, 128, 1.1, 3


def ok(answer):
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver answered {status!r}")
    return values[0] if len(values) == 1 else values


x = np.linspace(-2, 2, N, dtype=np.float32)
y = np.empty_like(x)

ok(driver.cuInit(0))
device = ok(driver.cuDeviceGet(0))
context = ok(driver.cuDevicePrimaryCtxRetain(device))
ok(driver.cuCtxSetCurrent(context))
stream = ok(driver.cuStreamCreate(1))
module = ok(driver.cuModuleLoadData(PTX))
scale, add_one = (ok(driver.cuModuleGetFunction(module, n)) for n in (b"scale", b"add_one"))
dx = ok(driver.cuMemAlloc(x.nbytes))
ok(driver.cuMemcpyHtoDAsync(dx, x, x.nbytes, stream))


def launch(function, values, types):
    grid, block = (N // THREADS, 1, 1), (THREADS, 1, 1)
    ok(driver.cuLaunchKernel(function, *grid, *block, 0, stream, (values, types), 0))


mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
ok(driver.cuStreamBeginCapture(stream, mode))
launch(scale, (int(dx), FACTOR), (ctypes.c_void_p, ctypes.c_float))
launch(add_one, (int(dx),), (ctypes.c_void_p,))
graph = ok(driver.cuStreamEndCapture(stream))
executable = ok(driver.cuGraphInstantiate(graph, 0))
for _ in range(LAUNCHES):
    ok(driver.cuGraphLaunch(executable, stream))
ok(driver.cuMemcpyDtoHAsync(y, dx, y.nbytes, stream))
ok(driver.cuStreamSynchronize(stream))

ok(driver.cuGraphExecDestroy(executable))
ok(driver.cuGraphDestroy(graph))
ok(driver.cuMemFree(dx))
ok(driver.cuModuleUnload(module))
ok(driver.cuStreamDestroy(stream))
ok(driver.cuDevicePrimaryCtxRelease(device))

expected = x
for _ in range(LAUNCHES):
    expected = expected * np.float32(FACTOR) + np.float32(1)
assert np.array_equal(y, expected)
checksum = y.view(np.uint32).sum(dtype=np.uint64)
print(f"two_kernel_graph: {LAUNCHES} launches, checksum {checksum:#x}")
