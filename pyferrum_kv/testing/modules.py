"""Checks of modules and functions: what is loaded, what is refused, what a function says."""

from __future__ import annotations

from pyferrum_kv.testing.ptx import HEADER, SHARED, STORE, VECTOR_ADD, arguments_ptx
from pyferrum_kv.testing.session import Session


def _load(s: Session, text: str) -> tuple[object, ...]:
    answer: tuple[object, ...] = s.driver.cuModuleLoadData(text.encode() + b"\0")
    return answer


def check_entries_are_found_by_name(s: Session) -> None:
    """A module gives its entries and globals, and NOT_FOUND for other names."""
    d = s.driver
    module = s.module(STORE)
    for name in (b"store", b"multiply"):
        assert int(s.ok(d.cuModuleGetFunction(module, name))) != 0
    s.refused(d.cuModuleGetFunction(module, b"absent"), "NOT_FOUND")
    pointer, size = s.ok(d.cuModuleGetGlobal(module, b"counter"))
    host = bytearray(4)
    s.ok(d.cuMemcpyDtoH(host, pointer, 4))
    assert (size, int.from_bytes(host, "little")) == (4, 5)
    s.refused(d.cuModuleGetGlobal(module, b"absent"), "NOT_FOUND")
    s.ok(d.cuModuleUnload(module))


def check_broken_ptx_is_refused_with_a_log(s: Session) -> None:
    """INVALID_PTX, and the JIT log names the line."""
    d = s.driver
    broken = VECTOR_ADD.replace("add.f32 %f3, %f1, %f2;", "add.f32 %f3, %f1, %nowhere;")
    line = broken[: broken.index("%nowhere")].count("\n") + 1
    log = bytearray(4096)
    options = [
        d.CUjit_option.CU_JIT_ERROR_LOG_BUFFER,
        d.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ]
    answer = d.cuModuleLoadDataEx(broken.encode() + b"\0", 2, options, [log, len(log)])
    s.refused(answer, "INVALID_PTX")
    text = log.split(b"\0", 1)[0].decode()
    assert f"line {line}" in text, text
    assert "%nowhere" in text, text


def check_text_that_is_no_ptx(s: Session) -> None:
    """INVALID_IMAGE."""
    s.refused(_load(s, "this is no PTX at all\n"), "INVALID_IMAGE")


def check_ptx_for_a_newer_device(s: Session) -> None:
    """A .target above the device is INVALID_PTX."""
    newer = VECTOR_ADD.replace(".version 8.0", ".version 8.6").replace("sm_80", "sm_100")
    s.refused(_load(s, newer), "INVALID_PTX")


def check_ptx_of_a_newer_language(s: Session) -> None:
    """A .version above the driver's is UNSUPPORTED_PTX_VERSION."""
    newer = VECTOR_ADD.replace(".version 8.0", ".version 9.9")
    s.refused(_load(s, newer), "UNSUPPORTED_PTX_VERSION")


def check_parameters_have_offset_and_size(s: Session) -> None:
    """cuFuncGetParamInfo gives the layout of the parameter block, and ends with INVALID_VALUE."""
    d = s.driver
    function = s.function(arguments_ptx(), "echo")
    sizes = [8, 1, 2, 4, 8, 4, 8, 12]
    offsets = [0, 8, 10, 12, 16, 24, 32, 40]
    for index, wanted in enumerate(zip(offsets, sizes, strict=True)):
        assert s.ok(d.cuFuncGetParamInfo(function, index)) == wanted
    s.refused(d.cuFuncGetParamInfo(function, len(sizes)), "INVALID_VALUE")


def check_function_attributes(s: Session) -> None:
    """Threads, static and dynamic shared bytes follow the PTX and the limits of the device."""
    d = s.driver
    kinds = d.CUfunction_attribute
    reverse, multiply = s.function(SHARED, "reverse"), s.function(STORE, "multiply")

    def get(name: str, function: object) -> int:
        value = s.ok(d.cuFuncGetAttribute(getattr(kinds, f"CU_FUNC_ATTRIBUTE_{name}"), function))
        assert isinstance(value, int)
        return value

    assert get("MAX_THREADS_PER_BLOCK", multiply) == 64
    assert get("MAX_THREADS_PER_BLOCK", reverse) == 1024
    assert get("PTX_VERSION", reverse) == 80
    assert 1 <= get("NUM_REGS", reverse) <= 255
    assert get("LOCAL_SIZE_BYTES", reverse) == 0
    dynamic = kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    static = get("SHARED_SIZE_BYTES", reverse)
    assert get("MAX_DYNAMIC_SHARED_SIZE_BYTES", reverse) + static <= 48 << 10
    optin = s.ok(
        d.cuDeviceGetAttribute(
            d.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, s.device
        )
    )
    s.ok(d.cuFuncSetAttribute(reverse, dynamic, optin - static))
    assert get("MAX_DYNAMIC_SHARED_SIZE_BYTES", reverse) == optin - static
    s.refused(d.cuFuncSetAttribute(reverse, dynamic, optin + 1), "INVALID_VALUE")


def check_occupancy(s: Session) -> None:
    """CTAs on a multiprocessor: bounded by threads, by shared memory, and by what a CTA may be."""
    d = s.driver
    function = s.function(SHARED, "reverse")
    active = d.cuOccupancyMaxActiveBlocksPerMultiprocessor
    assert s.ok(active(function, 1024, 0)) == 2
    assert s.ok(active(function, 64, 0)) == 32
    per_sm = s.ok(
        d.cuDeviceGetAttribute(
            d.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, s.device
        )
    )
    dynamic = 47 << 10
    assert s.ok(active(function, 128, dynamic)) == per_sm // (dynamic + (1 << 10))
    room = s.ok(d.cuOccupancyAvailableDynamicSMemPerBlock(function, 2, 128))
    assert 0 < room <= per_sm // 2
    grid, block = s.ok(d.cuOccupancyMaxPotentialBlockSize(function, None, 0, 0))
    assert block % 32 == 0
    assert grid > 0


def check_ptx_without_entries(s: Session) -> None:
    """A module may hold nothing."""
    s.ok(s.driver.cuModuleUnload(s.module(HEADER)))
