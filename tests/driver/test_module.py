"""Modules and functions: images, caches, signatures, attributes, errors."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY, STORE_ALL

from pyferrum_kv import CudaContext, CudaStream, errors
from pyferrum_kv.driver.image import Image
from pyferrum_kv.ptx_reader import read_ptx


def test_same_content_loads_once_and_functions_are_looked_up_once(
    fake: FakeDriver, fake_ctx: CudaContext, tmp_path: Path
) -> None:
    path = tmp_path / "axpy.ptx"
    path.write_text(AXPY)
    module = fake_ctx.load_module(AXPY)
    assert fake_ctx.load_module(AXPY.encode() + b"\0") is module
    assert fake_ctx.load_module(path) is module
    assert module.function("axpy") is module["axpy"]
    assert fake.count("cuModuleLoadDataEx") == 1
    assert fake.count("cuModuleGetFunction") == 1


def test_ptx_reaches_the_driver_with_its_nul(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    fake_ctx.load_module(AXPY)
    image = next(args for name, args in fake.calls if name == "cuModuleLoadDataEx")[0]
    assert isinstance(image, bytes)
    assert image == AXPY.encode() + b"\0"


@pytest.mark.parametrize("image", ["kernels.ptx", b"", 7, None])
def test_what_is_no_image_is_refused(ctx: CudaContext, image: object) -> None:
    with pytest.raises(errors.ArgumentError, match=r"load_module: .*wanted"):
        ctx.load_module(image)


def test_objects_with_ptx_are_taken(ctx: CudaContext) -> None:
    class Compiled:
        ptx = AXPY

    assert ctx.load_module(Compiled()).entries == ("axpy",)


def test_binaries_are_told_by_their_magic() -> None:
    assert not Image.of(b"\x7fELF" + bytes(60)).is_ptx
    assert Image.of(AXPY).is_ptx


def test_missing_entry_names_what_is_there(ctx: CudaContext) -> None:
    module = ctx.load_module(AXPY, name="axpy.ptx")
    with pytest.raises(errors.EntryNotFound, match=r"axpy.ptx has no entry 'axpi'; it has axpy"):
        module.function("axpi")
    with pytest.raises(errors.EntryNotFound, match="no global 'nothing'"):
        module.get_global("nothing")


def test_refused_ptx_says_version_target_and_next_step(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    newer = AXPY.replace(".version 8.0", ".version 8.7")
    fake.fail("cuModuleLoadDataEx", "UNSUPPORTED_PTX_VERSION")
    with pytest.raises(errors.ModuleLoadError) as caught:
        fake_ctx.load_module(newer, name="axpy.sm_80.ptx")
    text = str(caught.value)
    assert text.startswith("cuModuleLoadDataEx(axpy.sm_80.ptx): CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
    assert "the PTX is ISA 8.7 for sm_80, this is sm_90 with a driver of CUDA 12.4" in text
    assert "python build_ptx.py" in text
    assert fake_ctx.load_module(newer)  # a failure is not cached


def test_jit_log_is_in_the_error(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    def write_log() -> None:
        _, _, names, values = fake.calls[-1][1]
        buffer = values[[n.name for n in names].index("CU_JIT_ERROR_LOG_BUFFER")]
        buffer[:13] = b"line 7: error"

    fake.before["cuModuleLoadDataEx"] = write_log
    fake.fail("cuModuleLoadDataEx", "INVALID_PTX")
    with pytest.raises(errors.ModuleLoadError, match="JIT log:\nline 7: error") as caught:
        fake_ctx.load_module(AXPY)
    assert caught.value.log == "line 7: error"


def test_text_that_is_no_ptx_is_a_module_load_error(ctx: CudaContext) -> None:
    with pytest.raises(errors.ModuleLoadError) as caught:
        ctx.load_module("this is\nno PTX\n")
    assert caught.value.name in ("CUDA_ERROR_INVALID_IMAGE", "CUDA_ERROR_INVALID_PTX")
    assert "the bytes do not read as PTX" in str(caught.value)


def test_signature_comes_from_the_ptx_or_better_from_the_caller(ctx: CudaContext) -> None:
    module = ctx.load_module(STORE_ALL)
    read = read_ptx(STORE_ALL).entries["store_all"]
    named = replace(read, params=tuple(replace(p, name=f"p{i}") for i, p in enumerate(read.params)))
    assert [p.name for p in read.params] == ["out", "a", "b", "c", "d", "e", "f", "g"]
    assert ctx.load_module(STORE_ALL, signatures={"store_all": named}) is module
    assert module.signature("store_all") == named
    with pytest.raises(errors.ArgumentError, match="was loaded with another signature"):
        ctx.load_module(STORE_ALL, signatures={"store_all": read})


def test_signature_that_the_driver_contradicts_is_refused(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    fake.params = [(0, 8), (8, 8), (16, 4)]
    module = fake_ctx.load_module(AXPY)
    with pytest.raises(errors.ArgumentError, match=r"the driver counts \[\(0, 8\), \(8, 8\)"):
        module.function("axpy")


def test_cubin_takes_its_signature_from_the_driver(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    fake.params = [(0, 8), (8, 4), (12, 12)]
    function = fake_ctx.load_module(b"\x7fELF" + bytes(60)).function("k")
    assert [p.kind for p in function.signature.params] == ["bits", "bits", "struct"]
    fake.params = None
    old = fake_ctx.load_module(b"\x7fELF" + bytes(61)).function("k")
    with pytest.raises(errors.ArgumentError, match="give load_module"):
        old.bind(())


def test_function_attributes_and_occupancy(ctx: CudaContext) -> None:
    function = ctx.load_module(AXPY).function("axpy")
    assert function.num_regs > 0
    assert function.max_threads_per_block == 256  # .maxntid
    assert function.shared_size_bytes == 0
    assert function.local_size_bytes == 0
    assert function.ptx_version == 80
    assert function.binary_version >= 80
    assert function.const_size_bytes >= 0
    function.max_dynamic_shared_bytes = 65536
    assert function.max_dynamic_shared_bytes == 65536
    assert function.get_attribute("MAX_DYNAMIC_SHARED_SIZE_BYTES") == 65536
    function.set_cache_config("shared")
    occupancy = function.occupancy
    assert 1 <= occupancy.max_active_blocks(256) <= 32
    assert occupancy.max_active_blocks(256, 65536) <= occupancy.max_active_blocks(256)
    grid, block = occupancy.max_potential_block_size()
    assert block <= 256
    assert grid >= ctx.device.num_sms
    assert occupancy.available_dynamic_shared_bytes(1, 256) > 0


def test_globals_and_constants_are_views_of_the_module(
    ctx: CudaContext, stream: CudaStream
) -> None:
    module = ctx.load_module(AXPY)
    bias = module.get_global("bias", "f4")
    assert stream.clone_dtoh(bias).tolist() == [0, 1]
    stream.memcpy_htod(np.array([2.5, 3], np.float32), bias)
    assert stream.clone_dtoh(bias).tolist() == [2.5, 3]
    assert struct.unpack("<I", stream.clone_dtoh(module.get_global("calls")).tobytes()) == (0,)
    module.close()
    assert bias.is_closed
    assert bias.token == 0


def test_closed_module_is_refused_and_loads_anew(ctx: CudaContext) -> None:
    module = ctx.load_module(AXPY)
    function = module.function("axpy")
    module.close()
    module.close()
    with pytest.raises(errors.ClosedError, match=r"axpy: <CudaModule PTX .* closed"):
        _ = function.cu_function
    with pytest.raises(errors.ClosedError):
        module.function("other")
    assert ctx.load_module(AXPY) is not module


def test_function_is_loaded_when_it_is_looked_up(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    fake_ctx.load_module(AXPY).preload()
    assert fake.count("cuFuncLoad") == 1
