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
MAX_DIMS = 5
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

    dims, box:      bytes, the innermost dimension first, 1 to 5 dimensions; a box at most 256 each
    strides_bytes:  from a byte to the next along every dimension but the innermost; times of 16
    swizzle_bytes:  0, 32, 64 or 128, at most which the innermost dimension of the box takes

    The map borrows `memory`: it holds the address. What a box has outside of `dims` reads as 0.
    """
    _check(dims, strides_bytes, box, swizzle_bytes)
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


def _check(
    dims: Sequence[int], strides_bytes: Sequence[int], box: Sequence[int], swizzle_bytes: int
) -> None:
    """ArgumentError for what the driver would answer with INVALID_VALUE alone, or read past."""
    name = "encode_tensor_map"
    if not 1 <= len(dims) <= MAX_DIMS:
        raise ArgumentError(f"{name}: dims has {len(dims)} dimensions; wanted 1 to {MAX_DIMS}")
    for what, given, wanted in (
        ("strides_bytes", strides_bytes, len(dims) - 1),
        ("box", box, len(dims)),
    ):
        if len(given) != wanted:
            raise ArgumentError(
                f"{name}: {what} has {len(given)} numbers; wanted {wanted} for {len(dims)}"
                " dimensions"
            )
    for what, given, least, most, step in (
        ("dims", dims, 1, 1 << 32, 1),
        ("strides_bytes", strides_bytes, 16, (1 << 40) - 16, 16),
        ("box", box, 1, 256, 1),
    ):
        for number in given:
            if not least <= number <= most or number % step:
                multiple = f" in steps of {step}" if step > 1 else ""
                raise ArgumentError(
                    f"{name}: {what} is {tuple(given)}; wanted {least} to {most}{multiple} each"
                )
    if swizzle_bytes not in _SWIZZLES:
        raise ArgumentError(f"{name}: swizzle_bytes is {swizzle_bytes}; wanted 0, 32, 64 or 128")
    if swizzle_bytes and box[0] > swizzle_bytes:
        raise ArgumentError(
            f"{name}: box is {tuple(box)}; wanted at most {swizzle_bytes}, swizzle_bytes, of its"
            " innermost dimension"
        )
