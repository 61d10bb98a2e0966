"""What bench_launch.py launches, the C loops under it, and the launches that import no peer.

One and the same kernel for all of them: `thirteen`, empty, with the thirteen parameters of
ferrum-kernels' decode (seven pointers, five ints, a float), one CTA of 32 threads.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import driver

from pyferrum_kv import (
    CudaContext,
    CudaFunction,
    CudaGraph,
    CudaSlice,
    CudaStream,
    LaunchConfig,
    PreparedLaunch,
)
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    int8_kv_cache_append,
    launch_int8_kv_cache_append,
    launch_int8_paged_decode_attention,
    paged_decode_attention_int8,
)

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


@dataclass(frozen=True, eq=False)
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

    def prepared(self) -> PreparedLaunch:
        arguments = (*self.slices, *self.ints, self.softmax_scale)
        return self.function.prepare(ONE_WARP, *arguments, stream=self.stream)

    @cached_property
    def graph(self) -> CudaGraph:
        """One launch of the kernel."""
        prepared = self.prepared()
        with self.stream.capture() as graph:
            prepared.launch()
        graph.upload()
        return graph

    @cached_property
    def config(self) -> Any:
        """The driver's CUlaunchConfig of the launch."""
        made = driver.CUlaunchConfig()
        made.gridDimX, made.gridDimY, made.gridDimZ = ONE_WARP.grid_dim
        made.blockDimX, made.blockDimY, made.blockDimZ = ONE_WARP.block_dim
        made.hStream = self.stream.cu_stream
        return made


# the floor


def c_loops(subject: Subject) -> dict[str, Callable[[int], float]]:
    """Return loops in C (launch_floor.c): launches -> host nanoseconds."""
    source = Path(__file__).with_name("launch_floor.c")
    library = Path(tempfile.mkdtemp(prefix="launch_floor_")) / "launch_floor.so"
    compile_line = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(compile_line, check=True)
    loaded = ctypes.CDLL(str(library))
    addresses, values = subject.packed()
    params = ctypes.addressof(addresses)
    function, stream = subject.function.handle, subject.stream.handle

    def loop(name: str, *arguments: int) -> Callable[[int], float]:
        timed = getattr(loaded, name)
        timed.restype = ctypes.c_double
        timed.argtypes = [*[ctypes.c_void_p] * len(arguments), ctypes.c_int]

        def run(launches: int) -> float:
            assert values
            elapsed: float = timed(*arguments, launches)
            if elapsed < 0:
                raise RuntimeError(f"{name}: {elapsed}; -1 is no libcuda, else -1000 - CUresult")
            return elapsed

        return run

    return {
        "C loop on cuLaunchKernel": loop("launch_floor_ns", function, stream, params),
        "C loop on cuLaunchKernelEx": loop(
            "launch_ex_floor_ns", subject.config.getPtr(), function, params
        ),
        "C loop on cuGraphLaunch, one kernel": loop("graph_floor_ns", subject.graph.handle, stream),
    }


# ours


def ours_prepared(subject: Subject) -> Launch:
    """A prepared launch: signature checked once, one driver call each time."""
    return subject.prepared().launch


def ours_frozen(subject: Subject) -> Launch:
    """A frozen launch: the same as a graph of one kernel."""
    frozen = subject.prepared().freeze()
    frozen.upload()
    return frozen.launch


def ours_frozen_changed(subject: Subject) -> Launch:
    """A frozen launch with one argument new each time."""
    frozen = subject.prepared().freeze()
    changes = ((NUM_POINTERS, 33),)
    return lambda: frozen.launch_with(changes)


def ours_changed(subject: Subject) -> Launch:
    """A prepared launch with one argument new each time."""
    prepared = subject.prepared()
    changes = ((NUM_POINTERS, 33),)
    return lambda: prepared.launch_with(changes)


def ours_graph(subject: Subject) -> Launch:
    """A graph of one launch."""
    return subject.graph.launch


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


def small_pools(stream: CudaStream) -> Int8KvPools:
    return Int8KvPools.allocate(stream, KvLayout(4, block_size=16, num_kv_heads=2, head_dim=128))


def ours_decode(subject: Subject) -> Launch:
    """ferrum-kernels' signature, all checks on: 16 tokens, 8 query heads, 2 KV heads."""
    ctx = subject.ctx
    stream = ctx.default_stream()
    pools = small_pools(stream)
    q = stream.alloc_zeros(8 * 128, np.float16)
    out = stream.alloc_zeros(8 * 128, np.float16)
    block_table = stream.alloc_zeros(1, np.int32)
    return lambda: launch_int8_paged_decode_attention(
        ctx, q, pools.k_pool, pools.v_pool, pools.k_scales, pools.v_scales, block_table, out,
        8, 2, 128, 16, 16, 128**-0.5,
    )  # fmt: skip


def ours_append(subject: Subject) -> Launch:
    """ferrum-kernels' signature, all checks on: one token, 2 KV heads."""
    ctx = subject.ctx
    stream = ctx.default_stream()
    pools = small_pools(stream)
    k, v = stream.alloc_zeros(2 * 128, np.float16), stream.alloc_zeros(2 * 128, np.float16)
    slot_mapping = stream.alloc_zeros(1, np.int32)
    return lambda: launch_int8_kv_cache_append(
        ctx, k, v, pools.k_pool, pools.v_pool, pools.k_scales, pools.v_scales, slot_mapping,
        1, 2, 128,
    )  # fmt: skip


def ours_batched_decode(subject: Subject) -> Launch:
    """The batched call, one sequence of 16 tokens."""
    stream = subject.stream
    pools = small_pools(stream)
    q, out = stream.alloc_zeros(8 * 128, np.float16), stream.alloc_zeros(8 * 128, np.float16)
    block_table, kv_lens = stream.alloc_zeros(1, np.int32), stream.alloc_zeros(1, np.int32)
    return lambda: paged_decode_attention_int8(
        stream, q, pools, block_table, kv_lens, out, num_q_heads=8, max_kv_len=16
    )


def ours_batched_append(subject: Subject) -> Launch:
    """The batched call, one token."""
    stream = subject.stream
    pools = small_pools(stream)
    k, v = stream.alloc_zeros(2 * 128, np.float16), stream.alloc_zeros(2 * 128, np.float16)
    slot_mapping = stream.alloc_zeros(1, np.int32)
    return lambda: int8_kv_cache_append(stream, k, v, pools, slot_mapping)


# the bindings, which are imported in any case


def bindings_kernel(subject: Subject) -> Launch:
    """cuda.bindings' cuLaunchKernel with a ready void**; its status is looked at."""
    kept = subject.packed()
    address, call = ctypes.addressof(kept[0]), driver.cuLaunchKernel
    function = driver.CUfunction(int(subject.function.handle))
    stream = driver.CUstream(int(subject.stream.handle))

    def launch() -> None:
        status = call(function, 1, 1, 1, 32, 1, 1, 0, stream, address, 0)[0]
        if status:
            raise RuntimeError(f"{status} with {len(kept[1])} arguments")

    return launch


def bindings_kernel_ex(subject: Subject) -> Launch:
    """cuda.bindings' cuLaunchKernelEx with a ready configuration and void**."""
    kept = subject.packed()
    address, call, config = ctypes.addressof(kept[0]), driver.cuLaunchKernelEx, subject.config
    function = driver.CUfunction(int(subject.function.handle))

    def launch() -> None:
        status = call(config, function, address, 0)[0]
        if status:
            raise RuntimeError(f"{status} with {len(kept[1])} arguments")

    return launch


CLEAN: dict[str, Callable[[Subject], Launch]] = {
    "cuda.bindings cuLaunchKernel, prepacked": bindings_kernel,
    "cuda.bindings cuLaunchKernelEx, prepacked": bindings_kernel_ex,
    "ours: prepared launch": ours_prepared,
    "ours: prepared launch, an argument new": ours_changed,
    "ours: frozen launch": ours_frozen,
    "ours: frozen launch, an argument new": ours_frozen_changed,
    "ours: graph of one launch": ours_graph,
    "ours: launch builder": ours_builder,
    "ours: launch_int8_paged_decode_attention": ours_decode,
    "ours: launch_int8_kv_cache_append": ours_append,
    "ours: paged_decode_attention_int8": ours_batched_decode,
    "ours: int8_kv_cache_append": ours_batched_append,
}
