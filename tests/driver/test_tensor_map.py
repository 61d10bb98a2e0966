"""encode_tensor_map: what the driver is asked, and what is refused before it is."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext, DriverError, errors
from pyferrum_kv.driver import encode_tensor_map

TILES: dict[str, Any] = {"dims": (64, 16, 8), "strides_bytes": (128, 2048), "box": (64, 16, 2)}


def test_a_map_is_128_bytes_of_what_the_driver_encodes(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    x = fake_ctx.new_stream().alloc(1 << 14, "int8")
    assert len(encode_tensor_map(x, **TILES, swizzle_bytes=64)) == 128
    ((_, asked),) = [call for call in fake.calls if call[0] == "cuTensorMapEncodeTiled"]
    kind, rank, address, dims, strides, box, steps, interleave, swizzle, *_ = asked
    assert (kind.name, rank, int(address)) == (
        "CU_TENSOR_MAP_DATA_TYPE_UINT8",
        3,
        x.device_ptr,
    )
    numbers = [[int(n) for n in given] for given in (dims, strides, box, steps)]
    assert numbers == [[64, 16, 8], [128, 2048], [64, 16, 2], [1, 1, 1]]
    assert interleave.name == "CU_TENSOR_MAP_INTERLEAVE_NONE"
    assert swizzle.name == "CU_TENSOR_MAP_SWIZZLE_64B"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dims": ()}, "dims has 0 dimensions; wanted 1 to 5"),
        ({"dims": (16,) * 6}, "dims has 6 dimensions; wanted 1 to 5"),
        ({"strides_bytes": (128,)}, "strides_bytes has 1 numbers; wanted 2 for 3 dimensions"),
        ({"box": (64, 16)}, "box has 2 numbers; wanted 3 for 3 dimensions"),
        ({"dims": (64, 0, 8)}, r"dims is \(64, 0, 8\); wanted 1 to 4294967296 each"),
        ({"strides_bytes": (128, 2040)}, r"is \(128, 2040\); wanted 16 to 1099511627760 in steps"),
        ({"box": (64, 257, 2)}, r"box is \(64, 257, 2\); wanted 1 to 256 each"),
        ({"swizzle_bytes": 16}, "swizzle_bytes is 16; wanted 0, 32, 64 or 128"),
        ({"swizzle_bytes": 32}, r"box is \(64, 16, 2\); wanted at most 32, swizzle_bytes"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_driver_is_asked(
    fake: FakeDriver, fake_ctx: CudaContext, changed: dict[str, Any], message: str
) -> None:
    x = fake_ctx.new_stream().alloc(1 << 14, "int8")
    with pytest.raises(errors.ArgumentError, match=f"encode_tensor_map: .*{message}"):
        encode_tensor_map(x, **{**TILES, **changed})
    assert fake.count("cuTensorMapEncodeTiled") == 0


def test_a_refusal_of_the_driver_names_dims_and_box(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    x = fake_ctx.new_stream().alloc(1 << 14, "int8")
    fake.fail("cuTensorMapEncodeTiled", "INVALID_VALUE")
    said = (
        r"cuTensorMapEncodeTiled\(dims \(64, 16, 8\), box \(64, 16, 2\)\): CUDA_ERROR_INVALID_VALUE"
    )
    with pytest.raises(DriverError, match=said):
        encode_tensor_map(x, **TILES)


def test_closed_memory_has_no_map(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    x = fake_ctx.new_stream().alloc(1 << 14, "int8")
    x.close()
    with pytest.raises(errors.FerrumError, match="closed"):
        encode_tensor_map(x, **TILES)
    assert fake.count("cuTensorMapEncodeTiled") == 0


def test_the_virtual_device_has_no_tensor_maps() -> None:
    with CudaContext.new(0, driver="virtual") as ctx:
        assert ctx.attribute("TENSOR_MAP_ACCESS_SUPPORTED") == 0
        with pytest.raises(DriverError, match=r"cuTensorMapEncodeTiled.*NOT_SUPPORTED"):
            encode_tensor_map(ctx.new_stream().alloc(1 << 14, "int8"), **TILES)
