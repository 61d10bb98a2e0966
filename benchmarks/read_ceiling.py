"""The ceiling of decode: a kernel that only reads as many bytes, contiguously.

read_ceiling.ptx holds `read_limit(data, num_words, sink)`: CTAs of 512 threads, eight loads of
sixteen bytes in flight a thread, nothing written. The best of several grids is the ceiling.
"""

from __future__ import annotations

from pathlib import Path

from pyferrum_kv import CudaContext, CudaFunction, CudaSlice, CudaStream, CudaView, LaunchConfig

CTAS_AN_SM = (1, 2, 4, 8)


def read_kernel(ctx: CudaContext) -> CudaFunction:
    text = (Path(__file__).parent / "read_ceiling.ptx").read_text()
    return ctx.load_module(text, name="read_ceiling.ptx").function("read_limit")


def launch_read(
    stream: CudaStream,
    function: CudaFunction,
    data: CudaSlice | CudaView,
    sink: CudaSlice,
    num_ctas: int,
) -> None:
    """Read data, a multiple of sixteen bytes."""
    builder = stream.launch_builder(function).arg(data).arg(data.num_bytes // 16).arg(sink)
    builder.launch(LaunchConfig(grid_dim=(num_ctas, 1, 1), block_dim=(512, 1, 1)))
