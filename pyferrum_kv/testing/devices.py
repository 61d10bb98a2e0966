"""Checks of initialisation, devices, contexts and the names of errors."""

from __future__ import annotations

import threading

from pyferrum_kv.testing.session import Session


def check_device_facts_agree(s: Session) -> None:
    """The compute capability, the warp size and the limits fit together."""
    d = s.driver
    attribute = d.CUdevice_attribute

    def get(name: str) -> int:
        value = s.ok(d.cuDeviceGetAttribute(getattr(attribute, name), s.device))
        assert isinstance(value, int)
        return value

    major = get("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR")
    minor = get("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR")
    assert (major, minor) >= (8, 0)
    assert get("CU_DEVICE_ATTRIBUTE_WARP_SIZE") == 32
    block = get("CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK")
    optin = get("CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
    assert block == 48 << 10
    assert block <= optin < get("CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR")
    assert s.ok(d.cuDeviceGetName(256, s.device)).rstrip(b"\0")
    assert len(bytes(s.ok(d.cuDeviceGetUuid(s.device)).bytes)) == 16
    assert s.ok(d.cuDriverGetVersion()) >= 12000


def check_a_device_that_is_not_there_is_refused(s: Session) -> None:
    """An ordinal past the last device is INVALID_DEVICE."""
    count = s.ok(s.driver.cuDeviceGetCount())
    assert count >= 1
    s.refused(s.driver.cuDeviceGet(count), "INVALID_DEVICE")


def check_errors_have_names(s: Session) -> None:
    """Every status that both know has its name; a number that is none is refused."""
    d = s.driver
    for name in ("CUDA_SUCCESS", "CUDA_ERROR_INVALID_VALUE", "CUDA_ERROR_ILLEGAL_ADDRESS"):
        status = getattr(d.CUresult, name)
        assert s.ok(d.cuGetErrorName(status)) == name.encode()
        assert s.ok(d.cuGetErrorString(status))
    assert s.ok(d.cuGetErrorString(d.CUresult.CUDA_ERROR_INVALID_VALUE)) == b"invalid argument"


def check_the_primary_context_is_one(s: Session) -> None:
    """Retaining again gives the same handle, and the state says active."""
    d = s.driver
    again = s.ok(d.cuDevicePrimaryCtxRetain(s.device))
    assert int(again) == int(s.context)
    assert s.ok(d.cuDevicePrimaryCtxGetState(s.device))[1] == 1
    s.ok(d.cuDevicePrimaryCtxRelease(s.device))


def check_contexts_stack_up(s: Session) -> None:
    """push, pop and set work on the calling thread's own stack."""
    d = s.driver
    s.ok(d.cuCtxPushCurrent(s.context))
    assert int(s.ok(d.cuCtxGetCurrent())) == int(s.context)
    assert int(s.ok(d.cuCtxPopCurrent())) == int(s.context)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(int(d.cuCtxGetCurrent()[1])))
    thread.start()
    thread.join()
    assert seen == [0]


def check_calls_without_a_context_are_refused(s: Session) -> None:
    """A thread without a current context gets INVALID_CONTEXT and no value."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(s.driver.cuMemAlloc(16)))
    thread.start()
    thread.join()
    s.refused(answers[0], "INVALID_CONTEXT")
    assert answers[0][1] is None


def check_a_context_is_used_from_another_thread(s: Session) -> None:
    """Memory that one thread allocates, another may fill once the context is current there."""
    d = s.driver
    pointer = s.ok(d.cuMemAlloc(64))
    answers = []

    def fill() -> None:
        answers.append(d.cuCtxSetCurrent(s.context))
        answers.append(d.cuMemsetD8(pointer, 7, 64))

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    for answer in answers:
        s.ok(answer)
    host = bytearray(64)
    s.ok(d.cuMemcpyDtoH(host, pointer, 64))
    assert host == b"\7" * 64
    s.ok(d.cuMemFree(pointer))


def check_a_created_context_comes_and_goes(s: Session) -> None:
    """cuCtxCreate makes a context current; after cuCtxDestroy the one before is current again."""
    d = s.driver
    is_12 = hasattr(d, "cuCtxCreate_v4")
    made = s.ok(d.cuCtxCreate(*((0, s.device) if is_12 else (None, 0, s.device))))
    assert int(s.ok(d.cuCtxGetCurrent())) == int(made) != int(s.context)
    assert int(s.ok(d.cuCtxGetDevice())) == int(s.device)
    s.ok(d.cuMemFree(s.ok(d.cuMemAlloc(32))))
    s.ok(d.cuCtxDestroy(made))
    assert int(s.ok(d.cuCtxGetCurrent())) == int(s.context)


def check_limits_and_priorities(s: Session) -> None:
    """The stack limit reads back as set; greater priority is the smaller number."""
    d = s.driver
    stack = d.CUlimit.CU_LIMIT_STACK_SIZE
    before = s.ok(d.cuCtxGetLimit(stack))
    s.ok(d.cuCtxSetLimit(stack, 2048))
    assert s.ok(d.cuCtxGetLimit(stack)) == 2048
    s.ok(d.cuCtxSetLimit(stack, before))
    least, greatest = s.ok(d.cuCtxGetStreamPriorityRange())
    assert greatest < least == 0
    stream = s.ok(d.cuStreamCreateWithPriority(1, greatest))
    assert s.ok(d.cuStreamGetPriority(stream)) == greatest
    assert s.ok(d.cuStreamGetFlags(stream)) == 1
    assert int(s.ok(d.cuStreamGetCtx(stream))) == int(s.context)
    s.ok(d.cuStreamDestroy(stream))
