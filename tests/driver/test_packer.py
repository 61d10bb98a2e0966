"""Packing all at once: the same bytes as the writers, and nothing that they would refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv import CudaContext
from pyferrum_kv.driver.arguments import ArgumentBlock, writers_for
from pyferrum_kv.driver.packer import Packer
from pyferrum_kv.signature import Param, Signature

PLAIN = Signature(
    "plain",
    (
        Param("k", "pointer", 8, 0, "const f16*", "f16", True),
        Param("byte", "int", 1, 8, "i8"),
        Param("any", "bits", 8, 16),
        Param("short", "uint", 2, 24, "u16"),
        Param("n", "int", 4, 28, "i32"),
        Param("large", "uint", 8, 32, "u64"),
        Param("scale", "float", 4, 40, "f32"),
        Param("exact", "float", 8, 48, "f64"),
        Param("raw", "bits", 4, 56),
    ),
)
INT = st.integers(-(2**65), 2**65) | st.integers(-300, 300)
FLOAT = st.floats() | st.floats(width=32)


def block_of(context: Any, signature: Signature) -> ArgumentBlock:
    return ArgumentBlock(context, signature, writers_for(context, signature))


@pytest.fixture
def slices(fake_ctx: CudaContext) -> tuple[Any, Any]:
    stream = fake_ctx.new_stream()
    return stream.alloc(4, "f2"), stream.alloc(4, "i4")


def values(slices: tuple[Any, Any], **changed: Any) -> list[Any]:
    plain = {"k": slices[0], "byte": -3, "any": slices[1], "short": 9, "n": -7, "large": 2**63}
    return list({**plain, "scale": 0.5, "exact": 1e300, "raw": 2**32 - 1, **changed}.values())


def test_plain_arguments_are_packed_as_the_writers_do(
    fake_ctx: CudaContext, slices: tuple[Any, Any]
) -> None:
    packer, block = Packer(fake_ctx, PLAIN), block_of(fake_ctx, PLAIN)
    for given_values in (values(slices), values(slices, k=slices[0][1:], any=12345)):
        buffer = bytearray(PLAIN.size_bytes)
        assert packer.pack(buffer, given_values)
        block.write_all(given_values)
        assert buffer == block.buffer


@given(byte=INT, short=INT, n=INT, large=INT, any_=INT, raw=INT, scale=FLOAT, exact=FLOAT)
def test_what_is_packed_the_writers_would_pack_alike(any_: int, **numbers: Any) -> None:
    context: Any = None
    signature = Signature("numbers", PLAIN.params[1:])
    given_values = values((None, None), any=any_, **numbers)[1:]
    buffer, block = bytearray(signature.size_bytes), block_of(context, signature)
    if Packer(context, signature).pack(buffer, given_values):
        block.write_all(given_values)
        assert buffer == block.buffer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("byte", 128),
        ("byte", True),
        ("byte", np.int8(1)),
        ("short", -1),
        ("n", 2**31),
        ("n", 1.0),
        ("n", np.int64(1)),
        ("large", 2**64),
        ("scale", 1),
        ("scale", True),
        ("scale", 1e300),
        ("scale", np.float16(1)),
        ("exact", np.float64(1)),
        ("raw", -1),
        ("k", None),
        ("k", 4096),
        ("k", np.zeros(4, np.float16)),
    ],
)
def test_anything_else_is_left_to_the_writers(
    fake_ctx: CudaContext, slices: tuple[Any, Any], name: str, value: Any
) -> None:
    packer, buffer = Packer(fake_ctx, PLAIN), bytearray(PLAIN.size_bytes)
    assert not packer.pack(buffer, values(slices, **{name: value}))
    assert packer.pack(buffer, values(slices))  # and spoils nothing


def test_slices_that_do_not_fit_are_left_to_the_writers(
    fake: FakeDriver, fake_ctx: CudaContext, slices: tuple[Any, Any]
) -> None:
    packer, buffer = Packer(fake_ctx, PLAIN), bytearray(PLAIN.size_bytes)
    far = CudaContext.new(1, driver=fake).new_stream().alloc(4, "f2")
    for wrong in (slices[1], far):
        assert not packer.pack(buffer, values(slices, k=wrong))
    part = slices[0][1:]
    slices[0].close()
    for closed in (slices[0], part):
        assert not packer.pack(buffer, values(slices, k=closed))


@pytest.mark.parametrize(
    "param",
    [
        Param("s", "struct", 12, 0),
        Param("h", "float", 2, 0, "f16"),
        Param("b", "struct", 2, 0, "bf16"),
    ],
)
def test_structs_and_halves_are_left_to_the_writers(param: Param) -> None:
    context: Any = None
    assert not Packer(context, Signature("s", (param,))).pack(bytearray(16), [1.0])


def test_places_that_overlap_are_left_to_the_writers() -> None:
    context: Any = None
    twice = Signature("twice", (Param("a", "int", 4, 0), Param("b", "int", 4, 2)))
    assert not Packer(context, twice).pack(bytearray(8), [1, 2])


def test_ever_new_types_are_not_hoarded(fake_ctx: CudaContext) -> None:
    signature = Signature("one", (Param("n", "int", 4, 0),))
    packer, buffer = Packer(fake_ctx, signature), bytearray(4)
    for i in range(200):
        assert not packer.pack(buffer, [type(f"T{i}", (), {})()])
    assert len(packer._kinds) <= 64
    assert packer.pack(buffer, [5])
