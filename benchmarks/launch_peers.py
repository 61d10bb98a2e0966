"""The launches that bench_launch.py compares: each returns a call that launches once.

All but Triton and torch launch one and the same kernel: `thirteen`, empty, with the thirteen
parameters of ferrum-kernels' decode (seven pointers, five ints, a float), one CTA of 32 threads.
Every peer is put on our stream and given its arguments in the form it documents for a loop that
launches often. A peer that is not installed raises ImportError, and is reported as absent.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyferrum_kv import CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig

NUM_POINTERS, NUM_INTS = 7, 5
KINDS = [".u64"] * NUM_POINTERS + [".u32"] * NUM_INTS + [".f32"]
PTX = """.version 7.0
.target sm_80
.address_size 64
.visible .entry thirteen(
{params}
)
{{
    ret;
}}
""".format(
    params=",\n".join(f"    .param {kind} thirteen_param_{i}" for i, kind in enumerate(KINDS))
)
ONE_WARP = LaunchConfig(grid_dim=(1, 1, 1), block_dim=(32, 1, 1))
Launch = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """What everyone launches, and with what."""

    ctx: CudaContext
    stream: CudaStream
    function: CudaFunction
    slices: list[CudaSlice]
    ints: list[int]
    softmax_scale: float

    @classmethod
    def on(cls, ctx: CudaContext) -> Subject:
        stream = ctx.new_stream()
        function = ctx.load_module(PTX, name="thirteen.ptx").function("thirteen")
        slices = [stream.alloc_zeros(1024, np.float32) for _ in range(NUM_POINTERS)]
        return cls(ctx, stream, function, slices, [32, 8, 128, 16, 64], 0.25)

    @property
    def pointers(self) -> list[int]:
        return [s.device_ptr for s in self.slices]

    def packed(self) -> tuple[Any, list[Any]]:
        """Return a void*[13] that points at the argument values, and the values it keeps alive."""
        values: list[Any] = [ctypes.c_uint64(p) for p in self.pointers]
        values += [ctypes.c_int32(i) for i in self.ints]
        values.append(ctypes.c_float(self.softmax_scale))
        addresses = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        return addresses, values


def c_floor(subject: Subject) -> Callable[[int], float]:
    """Return launches -> host nanoseconds of a C loop over cuLaunchKernel (launch_floor.c)."""
    source = Path(__file__).with_name("launch_floor.c")
    library = Path(tempfile.mkdtemp(prefix="launch_floor_")) / "launch_floor.so"
    compile_line = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(compile_line, check=True)
    floor = ctypes.CDLL(str(library)).launch_floor_ns
    floor.restype = ctypes.c_double
    floor.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    addresses, values = subject.packed()
    function, stream = int(subject.function.handle), int(subject.stream.handle)

    def run(launches: int) -> float:
        assert values
        elapsed: float = floor(function, stream, ctypes.addressof(addresses), launches)
        if elapsed < 0:
            raise RuntimeError(
                f"launch_floor_ns: {elapsed}; -1 is no libcuda, else -1000 - CUresult"
            )
        return elapsed

    return run


def ours_prepared(subject: Subject) -> Launch:
    """A prepared launch: signature checked once, one driver call each time."""
    args = [*subject.slices, *subject.ints, subject.softmax_scale]
    return subject.function.prepare(ONE_WARP, *args, stream=subject.stream).launch


def ours_builder(subject: Subject) -> Launch:
    """The launch builder: thirteen arguments checked and packed each time."""
    stream, function, slices, ints = subject.stream, subject.function, subject.slices, subject.ints
    softmax_scale = subject.softmax_scale

    def launch() -> None:
        builder = stream.launch_builder(function)
        for value in slices:
            builder.arg(value)
        for value in ints:
            builder.arg(value)
        builder.arg(softmax_scale).launch(ONE_WARP)

    return launch


def cuda_bindings(subject: Subject) -> Launch:
    """cuda.bindings' cuLaunchKernel with a ready void**; its status is looked at."""
    from cuda.bindings import driver

    kept = subject.packed()
    address, call = ctypes.addressof(kept[0]), driver.cuLaunchKernel
    function = driver.CUfunction(int(subject.function.handle))
    stream = driver.CUstream(int(subject.stream.handle))

    def launch() -> None:
        status = call(function, 1, 1, 1, 32, 1, 1, 0, stream, address, 0)[0]
        if status:
            raise RuntimeError(f"{status} with {len(kept[1])} arguments")

    return launch


def cupy_raw_kernel(subject: Subject) -> Launch:
    """CuPy's RawKernel, out of a RawModule of the same PTX; it checks no argument."""
    import cupy

    path = Path(tempfile.mkdtemp(prefix="thirteen_")) / "thirteen.ptx"
    path.write_text(PTX)
    kernel = cupy.RawModule(path=str(path)).get_function("thirteen")
    arrays = [cupy.zeros(1024, cupy.float32) for _ in range(NUM_POINTERS)]
    args = (*arrays, *[np.int32(i) for i in subject.ints], np.float32(subject.softmax_scale))
    if hasattr(cupy.cuda.Stream, "from_external"):
        stream = cupy.cuda.Stream.from_external(subject.stream)
    else:
        stream = cupy.cuda.ExternalStream(int(subject.stream.handle))
    stream.use()
    grid, block = (1,), (32,)
    return lambda: kernel(grid, block, args)


def cuda_core(subject: Subject) -> Launch:
    """cuda.core's launch(), pointers as ints and scalars as ctypes."""
    try:
        from cuda import core
        from cuda.core import Device, ObjectCode, Stream, launch
    except ImportError:
        from cuda.core import experimental as core
        from cuda.core.experimental import Device, ObjectCode, Stream, launch

    Device(0).set_current()
    stream = Stream.from_handle(int(subject.stream.handle))
    kernel = ObjectCode.from_ptx(PTX.encode()).get_kernel("thirteen")
    config = core.LaunchConfig(grid=1, block=32)
    ints = [ctypes.c_int32(i) for i in subject.ints]
    args = (*subject.pointers, *ints, ctypes.c_float(subject.softmax_scale))
    return lambda: launch(stream, config, kernel, *args)


def triton_jit(subject: Subject) -> Launch:
    """Triton's kernel[grid](...), with a kernel of its own that has as many parameters."""
    import torch

    from benchmarks.triton_thirteen import thirteen

    tensors = [torch.zeros(1024, device="cuda") for _ in range(NUM_POINTERS)]
    args = (*tensors, *subject.ints, subject.softmax_scale)
    torch.cuda.set_stream(torch.cuda.ExternalStream(int(subject.stream.handle)))
    return lambda: thirteen[(1,)](*args, num_warps=1)


def torch_add(subject: Subject) -> Launch:
    """torch's add_ on one element: an operator of an eager framework, not the same kernel."""
    import torch

    tensor = torch.zeros(1, device="cuda")
    torch.cuda.set_stream(torch.cuda.ExternalStream(int(subject.stream.handle)))
    return lambda: tensor.add_(1)


PEERS: dict[str, Callable[[Subject], Launch]] = {
    "cuda.bindings, prepacked": cuda_bindings,
    "CuPy RawKernel": cupy_raw_kernel,
    "cuda.core launch": cuda_core,
    "Triton": triton_jit,
    "torch add_": torch_add,
}
