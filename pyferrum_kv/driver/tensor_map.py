"""Tensor maps: what Hopper's copy engine needs to know of an array, written by the driver.

https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TENSOR__MEMORY.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyferrum_kv.errors import ArgumentError

if TYPE_CHECKING:
    from pyferrum_kv.driver.memory import DeviceMemory

TENSOR_MAP_BYTES = 128
_SWIZZLES = {0: "NONE", 32: "32B", 64: "64B", 128: "128B"}


def encode_tensor_map(
    memory: DeviceMemory,
    *,
    dims: Sequence[int],
    strides_bytes: Sequence[int],
    box: Sequence[int],
    swizzle_bytes: int = 0,
) -> bytes:
    """A CUtensorMap of bytes, for a `const __grid_constant__` struct parameter of a kernel.

    dims, box:      elements, the innermost dimension first, up to 5
    strides_bytes:  from an element to the next along every dimension but the innermost
    swizzle_bytes:  0, 32, 64 or 128, at most which the innermost dimension of the box takes

    The map borrows `memory`: it holds the address. What a box has outside of `dims` reads as 0.
    """
    if swizzle_bytes not in _SWIZZLES:
        raise ArgumentError(
            f"encode_tensor_map: swizzle_bytes is {swizzle_bytes}; wanted 0, 32, 64 or 128"
        )
    context = memory.context
    driver = context.api.raw
    size, count = driver.cuuint64_t, driver.cuuint32_t
    encoded = context.call(
        "cuTensorMapEncodeTiled",
        driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT8,
        len(dims),
        memory.device_ptr,
        [size(n) for n in dims],
        [size(n) for n in strides_bytes],
        [count(n) for n in box],
        [count(1) for _ in dims],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{_SWIZZLES[swizzle_bytes]}"),
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        on=f"dims {tuple(dims)}, box {tuple(box)}",
    )
    return ctypes.string_at(int(encoded.getPtr()), TENSOR_MAP_BYTES)
