"""Modules of the virtual device: what loads, what is refused and how."""

from __future__ import annotations

import ctypes

import pytest
from helpers.virtual_bench import Bench, R

from pyferrum_kv.testing.ptx import HEADER, STORE

POINTER, INT = ctypes.c_void_p, ctypes.c_uint32


@pytest.fixture
def bench():
    return Bench()


def test_ptx_that_is_valid_but_not_emulated_is_refused_by_opcode_and_line(bench):
    text = STORE.replace("    st.global.u32 [%rd1], %r1;", "    wgmma.fence.sync.aligned;")
    line = text[: text.index("wgmma")].count("\n") + 1
    module = bench.do("cuModuleLoadData", text.encode() + b"\0")
    assert bench.status("cuModuleGetFunction", module, b"store") == R.CUDA_ERROR_NOT_SUPPORTED
    assert f"line {line}: wgmma.fence.sync.aligned" in bench.driver.last_error
    bench.do("cuModuleGetFunction", module, b"multiply")


def test_a_special_register_that_is_not_emulated_is_refused_by_name_and_line(bench):
    text = STORE.replace(
        "    st.global.u32 [%rd1], %r1;", "    mov.u32 %r1, %cluster_nctarank;\n    {old}"
    ).replace("{old}", "st.global.u32 [%rd1], %r1;")
    line = text[: text.index("%cluster_nctarank")].count("\n") + 1
    module = bench.do("cuModuleLoadData", text.encode() + b"\0")
    assert bench.status("cuModuleGetFunction", module, b"store") == R.CUDA_ERROR_NOT_SUPPORTED
    assert f"line {line}: mov.u32 %r1, %cluster_nctarank" in bench.driver.last_error


@pytest.mark.parametrize("magic", [b"\x7fELF", b"\x50\xed\x55\xba"])
def test_machine_code_is_refused_as_such(bench, magic):
    assert bench.status("cuModuleLoadData", magic + bytes(60)) == R.CUDA_ERROR_NOT_SUPPORTED
    assert "machine code is not emulated" in bench.driver.last_error


@pytest.mark.parametrize(
    ("target", "cc", "loads"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (9, 0), True),
        ("sm_90", (8, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_80a", (9, 0), False),
    ],
)
def test_the_target_must_suit_the_device(target, cc, loads):
    bench = Bench(cc=cc)
    text = HEADER.replace("sm_80", target).encode() + b"\0"
    wanted = R.CUDA_SUCCESS if loads else R.CUDA_ERROR_INVALID_PTX
    assert bench.status("cuModuleLoadData", text) == wanted


@pytest.mark.parametrize(
    ("version", "driver_version", "loads"),
    [("8.0", 12000, True), ("8.1", 12000, False), ("8.8", 12090, True), ("9.0", 12090, False)],
)
def test_the_language_must_be_the_drivers(version, driver_version, loads):
    bench = Bench(driver_version=driver_version)
    text = HEADER.replace("8.0", version).encode() + b"\0"
    wanted = R.CUDA_SUCCESS if loads else R.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    assert bench.status("cuModuleLoadData", text) == wanted


def test_an_image_may_be_an_address(bench):
    held = ctypes.create_string_buffer(STORE.encode())
    bench.do("cuModuleUnload", bench.do("cuModuleLoadData", ctypes.addressof(held)))


def test_the_info_log_and_an_empty_error_log(bench):
    options = bench.driver.CUjit_option
    info, error = bytearray(b"\xee" * 64), bytearray(b"\xee" * 64)
    chosen = [
        options.CU_JIT_INFO_LOG_BUFFER,
        options.CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        options.CU_JIT_ERROR_LOG_BUFFER,
        options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ]
    bench.do("cuModuleLoadDataEx", STORE.encode() + b"\0", 4, chosen, [info, 64, error, 64])
    assert info.split(b"\0")[0] == b"2 entries"
    assert error[0] == 0


def test_an_unloaded_module_takes_its_functions_and_variables_along(bench):
    free = bench.do("cuMemGetInfo")
    module = bench.do("cuModuleLoadData", STORE.encode() + b"\0")
    found = bench.do("cuModuleGetFunction", module, b"store")
    bench.do("cuModuleUnload", module)
    assert bench.launch(found, (0, 0), (POINTER, INT)) == R.CUDA_ERROR_INVALID_HANDLE
    assert bench.status("cuModuleUnload", module) == R.CUDA_ERROR_INVALID_HANDLE
    assert bench.do("cuMemGetInfo") == free
