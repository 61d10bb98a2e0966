"""Arguments: counted, typed and ranged against the signature, and packed where the kernel reads."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY, STORE_ALL
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv import CudaContext, CudaStream, LaunchConfig, bfloat16, errors
from pyferrum_kv.driver.function import CudaFunction
from pyferrum_kv.signature import Param, Signature

APPEND = Signature(
    "append",
    (
        Param("k", "pointer", 8, 0, "const f16*", "f16", True),
        Param("k_pool", "pointer", 8, 8, "i8*", "i8"),
        Param("num_slots", "int", 8, 16, "i64"),
        Param("head_dim", "int", 4, 24, "i32"),
        Param("flags", "uint", 4, 28, "u32"),
        Param("softmax_scale", "float", 4, 32, "f32"),
        Param("half", "struct", 2, 36, "bf16"),
        Param("byte", "uint", 1, 38, "u8"),
    ),
)
PTX = AXPY.replace(
    ".visible .entry axpy(.param .u64 x, .param .u64 y, .param .u32 n, .param .f32 a)",
    ".visible .entry append(.param .u64 x, .param .u64 y, .param .u32 n, .param .f32 a)",
)


class Bench:
    """A function of signature APPEND on the recording driver, and valid arguments for it."""

    def __init__(self, context: CudaContext) -> None:
        stream = context.new_stream()
        self.function: CudaFunction = context.load_module(
            PTX, signatures={"append": APPEND}
        ).function("append")
        self.valid: dict[str, Any] = {
            "k": stream.alloc(4, "f2"),
            "k_pool": stream.alloc(4, "i1"),
            "num_slots": -5,
            "head_dim": 128,
            "flags": 7,
            "softmax_scale": 0.5,
            "half": 1.0,
            "byte": 255,
        }
        self.stream = stream

    def bind(self, **changed: Any) -> bytes:
        return bytes(self.function.bind(tuple({**self.valid, **changed}.values())).buffer)


@pytest.fixture
def bench(fake_ctx: CudaContext) -> Bench:
    return Bench(fake_ctx)


def test_packed_as_the_kernel_reads(bench: Bench) -> None:
    k, k_pool = bench.valid["k"], bench.valid["k_pool"]
    expected = struct.pack(
        "<QQqiIf", k.device_ptr, k_pool.device_ptr, -5, 128, 7, 0.5
    ) + bytes.fromhex("803fff")
    assert bench.bind() == expected


def test_pointers_array_names_each_field(bench: Bench) -> None:
    block = bench.function.bind(tuple(bench.valid.values()))
    addresses = (ctypes.c_void_p * 8).from_address(block.address)
    base = addresses[0]
    assert [address - base for address in addresses] == [p.offset for p in APPEND.params]
    assert ctypes.string_at(base + 24, 4) == struct.pack("<i", 128)


def test_wrong_count_says_what_is_missing(bench: Bench) -> None:
    with pytest.raises(errors.ArgumentError) as caught:
        bench.function.bind(tuple(bench.valid.values())[:6])
    assert str(caught.value) == (
        "append takes 8 arguments (2 pointers, 2 int, 2 uint, 1 float, 1 struct); got 6,"
        " without 'half', 'byte'"
    )


def test_wrong_type_names_position_name_wanted_and_got(bench: Bench) -> None:
    with pytest.raises(errors.ArgumentError) as caught:
        bench.bind(head_dim=1.5)
    assert str(caught.value) == (
        "append takes 8 arguments (2 pointers, 2 int, 2 uint, 1 float, 1 struct);"
        " argument 4 'head_dim' is int, got float"
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("head_dim", 2**31, "'head_dim' is i32, got 2147483648; wanted -2147483648 to 2147483647"),
        ("head_dim", -(2**31) - 1, "wanted -2147483648"),
        ("head_dim", np.int64(5), r"got numpy int64; pass int\(value\)"),
        ("head_dim", np.float32(5), "got numpy float32"),
        ("head_dim", None, "'head_dim' is int, got None"),
        ("head_dim", "5", "got str"),
        ("flags", -1, "'flags' is u32, got -1; wanted 0 to 4294967295"),
        ("flags", 2**32, "got 4294967296"),
        ("flags", np.int32(5), "got numpy int32"),
        ("byte", 256, "'byte' is u8, got 256; wanted 0 to 255"),
        ("num_slots", 2**63, "'num_slots' is i64"),
        ("softmax_scale", 1e300, r"'softmax_scale' is f32, got 1e\+300, which it cannot hold"),
        ("softmax_scale", np.float16(1), r"got numpy float16; pass float\(value\)"),
        ("softmax_scale", "1", "'softmax_scale' is float, got str"),
        ("softmax_scale", True, "got int True"),
        ("half", b"123", "'half' is bf16, got 3 bytes; wanted 2"),
        ("k", 0x1000, r"'k' is pointer, got int 4096; wrap an address with stream.slice_from_ptr"),
        ("k", np.zeros(3), r"got a numpy array of float64; copy it with stream.clone_htod\(\)"),
        ("k", 1.0, "'k' is pointer, got float"),
    ],
)
def test_wrong_values_are_refused_before_the_launch(
    bench: Bench, name: str, value: object, said: str
) -> None:
    with pytest.raises(errors.ArgumentError, match=said):
        bench.bind(**{name: value})


def test_slice_of_another_type_is_refused(bench: Bench) -> None:
    floats = bench.stream.alloc(4, "f4")
    with pytest.raises(errors.ArgumentError, match=r"'k' is const f16\*, got a slice of float32"):
        bench.bind(k=floats)
    with pytest.raises(errors.ArgumentError, match="got a slice of bfloat16"):
        bench.bind(k=bench.stream.alloc(4, bfloat16))
    bench.bind(k=floats.view("f2"))


def test_none_is_null_and_closed_is_refused(bench: Bench) -> None:
    assert bench.bind(k=None)[:8] == bytes(8)
    bench.valid["k"].close()
    with pytest.raises(errors.ClosedError, match=r"float16\[4\], closed"):
        bench.bind()


def test_slice_of_another_context_is_refused(fake: FakeDriver, bench: Bench) -> None:
    far = CudaContext.new(1, driver=fake).new_stream().alloc(4, "f2")
    with pytest.raises(errors.WrongContextError, match="argument 1 'k' is of <CudaContext primary"):
        bench.bind(k=far)


def test_numpy_scalars_of_the_right_type_pass(bench: Bench) -> None:
    packed = bench.bind(
        head_dim=np.int32(3), flags=np.uint32(4), softmax_scale=np.float32(2), byte=np.uint8(9)
    )
    assert struct.unpack_from("<iIf", packed, 24) == (3, 4, 2.0)
    assert packed[38] == 9
    assert struct.unpack_from("<f", bench.bind(softmax_scale=np.float64(0.25)), 32) == (0.25,)
    assert struct.unpack_from("<f", bench.bind(softmax_scale=3), 32) == (3,)


def test_infinities_and_nan_are_floats(bench: Bench) -> None:
    assert struct.unpack_from("<f", bench.bind(softmax_scale=float("inf")), 32) == (float("inf"),)
    (nan,) = struct.unpack_from("<f", bench.bind(softmax_scale=float("nan")), 32)
    assert nan != nan


@given(kind=st.sampled_from(["int", "uint"]), size=st.sampled_from([1, 2, 4, 8]), data=st.data())
def test_every_integer_width_is_exact_or_refused(kind: str, size: int, data: st.DataObject) -> None:
    from pyferrum_kv.driver.arguments import ArgumentBlock, writers_for

    signature = Signature("k", (Param("n", kind, size, 0),))  # type: ignore[arg-type]
    value = data.draw(st.integers(-(2**65), 2**65) | st.integers(-300, 300))
    low = -(1 << (8 * size - 1)) if kind == "int" else 0
    high = (1 << (8 * size - 1)) - 1 if kind == "int" else (1 << (8 * size)) - 1
    context: Any = None
    block = ArgumentBlock(context, signature, writers_for(context, signature))
    if low <= value <= high:
        block.fill((value,))
        assert int.from_bytes(block.buffer, "little", signed=kind == "int") == value
    else:
        with pytest.raises(errors.ArgumentError, match="wanted"):
            block.fill((value,))


def test_every_parameter_arrives_where_it_belongs(ctx: CudaContext, stream: CudaStream) -> None:
    """Each argument has a value of its own, each field of the struct too: a swap would show."""
    out = stream.alloc_zeros(44, "u1")
    function = ctx.load_module(STORE_ALL).function("store_all")
    fields = np.array([(0x11, -2, 3.5)], "<i4, <i4, <f4")
    values = (out, 200, 0xBEEF, -123456, 2**64 - 5, 1.25, -2.5e200, fields)
    stream.launch_builder(function).args(*values).launch(LaunchConfig(1, 1))
    got = stream.clone_dtoh(out).tobytes()
    assert got[0] == 200
    assert struct.unpack_from("<HiQf", got, 2)[:1] == (0xBEEF,)
    assert struct.unpack_from("<i", got, 4) == (-123456,)
    assert struct.unpack_from("<Q", got, 8) == (2**64 - 5,)
    assert struct.unpack_from("<f", got, 16) == (1.25,)
    assert struct.unpack_from("<d", got, 24) == (-2.5e200,)
    assert got[32:44] == fields.tobytes()


def test_foreign_ptx_checks_size_and_float(ctx: CudaContext, stream: CudaStream) -> None:
    function = ctx.load_module(AXPY).function("axpy")
    x = stream.alloc_zeros(4, "f4")
    with pytest.raises(errors.ArgumentError, match="argument 3 'n' is bits, got float"):
        function.bind((x, x, 4.0, 1.0))
    with pytest.raises(errors.ArgumentError, match="argument 4 'a' is float, got a slice"):
        function.bind((x, x, 4, x))
    with pytest.raises(errors.ArgumentError, match="'n' is bits, got 4294967296"):
        function.bind((x, x, 2**32, 1.0))
    function.bind((x, x[1:], 2**32 - 1, 1))
