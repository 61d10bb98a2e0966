"""What others offer for a launch; each returns a call that launches once.

All but Triton and torch launch the kernel of launch_subject.py. Every peer is put on our stream and
given its arguments in the form it documents for a loop that launches often. A peer that is not
installed raises ImportError, and is reported as absent.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.launch_subject import NUM_POINTERS, PTX, Launch, Subject


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
    "CuPy RawKernel": cupy_raw_kernel,
    "cuda.core launch": cuda_core,
    "Triton": triton_jit,
    "torch add_": torch_add,
}
