"""One axpy of 40 elements, prepared and frozen, and what it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers.kernels import AXPY

from pyferrum_kv import (
    CudaContext,
    CudaSlice,
    CudaStream,
    FrozenLaunch,
    LaunchConfig,
    PreparedLaunch,
)


def prepared(context: CudaContext, **options: Any) -> tuple[CudaStream, CudaSlice, PreparedLaunch]:
    """y += 2 * x over 40 elements; x is 0..39, y is kept by the launch."""
    stream = context.new_stream()
    x = stream.clone_htod(np.arange(40, dtype=np.float32))
    y = stream.alloc_zeros(40, "f4")
    function = context.load_module(AXPY).function("axpy")
    config = LaunchConfig.for_num_elems(40, block=32)
    return stream, y, function.prepare(config, x, y, 40, 2.0, stream=stream, **options)


def frozen(context: CudaContext) -> tuple[CudaStream, CudaSlice, FrozenLaunch]:
    stream, y, launch = prepared(context)
    return stream, y, launch.freeze()


def times_x(factor: float) -> list[float]:
    return [factor * i for i in range(40)]
