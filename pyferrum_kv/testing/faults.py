"""Checks that end a context: errors that surface late, stay, and reach whatever uses the context.

A real GPU needs a new process after each.
"""

from __future__ import annotations

import ctypes
from typing import Any

from pyferrum_kv.testing.ptx import FAULTS, STORE
from pyferrum_kv.testing.session import Session

WILD = 0x10
FAR = 1 << 20  # past all the shared memory that an SM has


def _launch(s: Session, entry: str, first: int, second: int, function: Any = None) -> None:
    """Queue one thread of an entry of FAULTS; that it faults is not known yet."""
    arguments = ((first, second), (ctypes.c_void_p, ctypes.c_void_p))
    function = function or s.function(FAULTS, entry)
    s.ok(s.driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, s.stream, arguments, 0))


def _memory(s: Session) -> int:
    """64 bytes that are written and synchronised."""
    pointer = s.ok(s.driver.cuMemAlloc(64))
    s.ok(s.driver.cuMemsetD8(pointer, 1, 64))
    s.settle()
    return int(pointer)


def _stays(s: Session, *names: str) -> None:
    """The next synchronisation fails with one of the names, and so does all that follows it."""
    (status,) = s.driver.cuStreamSynchronize(s.stream)
    s.refused((status,), *names)
    name = status.name.removeprefix("CUDA_ERROR_")
    s.refused(s.driver.cuCtxSynchronize(), name)
    s.refused(s.driver.cuMemAlloc(16), name)
    s.refused(s.driver.cuStreamSynchronize(s.stream), name)


def check_a_wild_store_is_sticky(s: Session) -> None:
    """ILLEGAL_ADDRESS comes with the next synchronisation, and with every call after it."""
    d = s.driver
    function = s.function(STORE, "store")
    arguments = ((WILD, 1), (ctypes.c_void_p, ctypes.c_uint32))
    s.ok(d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, s.stream, arguments, 0))
    s.refused(d.cuStreamSynchronize(s.stream), "ILLEGAL_ADDRESS")
    s.refused(d.cuMemAlloc(16), "ILLEGAL_ADDRESS")
    s.refused(d.cuCtxSynchronize(), "ILLEGAL_ADDRESS")


def check_a_wild_load_is_sticky(s: Session) -> None:
    """Reading what is not mapped is ILLEGAL_ADDRESS, as writing it is."""
    _launch(s, "copy", WILD, _memory(s))
    _stays(s, "ILLEGAL_ADDRESS")


def check_a_misaligned_store_is_sticky(s: Session) -> None:
    """A word at an address that is no multiple of 4 is MISALIGNED_ADDRESS."""
    pointer = _memory(s)
    _launch(s, "copy", pointer, pointer + 18)
    _stays(s, "MISALIGNED_ADDRESS")


def check_a_misaligned_vector_load_is_sticky(s: Session) -> None:
    """Four words at an address that is no multiple of 16 are MISALIGNED_ADDRESS."""
    pointer = _memory(s)
    _launch(s, "copy_wide", pointer + 4, pointer + 32)
    _stays(s, "MISALIGNED_ADDRESS")


def check_a_misaligned_shared_access_is_sticky(s: Session) -> None:
    """So it is in shared memory."""
    _launch(s, "through_shared", 2, _memory(s))
    _stays(s, "MISALIGNED_ADDRESS")


def check_shared_memory_ends(s: Session) -> None:
    """A shared address past all that a CTA can have ends the context."""
    _launch(s, "through_shared", FAR, _memory(s))
    _stays(s, "ILLEGAL_ADDRESS", "LAUNCH_FAILED")


def check_a_trap_ends_the_context(s: Session) -> None:
    """The trap instruction is a failed launch, or an illegal instruction on some architectures."""
    _launch(s, "stop", 0, 0)
    _stays(s, "LAUNCH_FAILED", "ILLEGAL_INSTRUCTION")


def check_a_fault_reaches_all_of_its_context(s: Session) -> None:
    """Another stream, an event, a copy, a load, a launch: each gives the error of the first."""
    d = s.driver
    pointer = _memory(s)
    other = s.ok(d.cuStreamCreate(1))
    event = s.ok(d.cuEventCreate(2))
    function = s.function(FAULTS, "copy")
    arguments = ((pointer, pointer + 8), (ctypes.c_void_p, ctypes.c_void_p))
    _launch(s, "copy", WILD, pointer)
    d.cuEventRecord(event, s.stream)  # may know of the fault already
    s.refused(d.cuEventSynchronize(event), "ILLEGAL_ADDRESS")
    for answer in (
        d.cuStreamSynchronize(other),
        d.cuStreamQuery(s.stream),
        d.cuMemcpyDtoH(bytearray(4), d.CUdeviceptr(pointer), 4),
        d.cuMemsetD8(d.CUdeviceptr(pointer), 0, 4),
        d.cuMemFree(d.CUdeviceptr(pointer)),
        d.cuModuleLoadData(STORE.encode() + b"\0"),
        d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, other, arguments, 0),
    ):
        s.refused(answer, "ILLEGAL_ADDRESS")


def check_a_fault_in_a_graph_is_sticky(s: Session) -> None:
    """Capturing and launching the graph succeed; the synchronisation tells."""
    d = s.driver
    pointer, function = _memory(s), s.function(FAULTS, "copy")
    mode = d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    s.ok(d.cuStreamBeginCapture(s.stream, mode))
    _launch(s, "copy", WILD, pointer, function)
    graph = s.ok(d.cuStreamEndCapture(s.stream))
    s.ok(d.cuGraphLaunch(s.ok(d.cuGraphInstantiate(graph, 0)), s.stream))
    _stays(s, "ILLEGAL_ADDRESS")


def check_host_functions_behind_a_fault_are_not_called(s: Session) -> None:
    """cuLaunchHostFunc calls nothing once the context is lost."""
    d = s.driver
    seen: list[int] = []
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(1))
    address = ctypes.cast(call, ctypes.c_void_p).value
    _launch(s, "copy", WILD, _memory(s))
    d.cuLaunchHostFunc(s.stream, d.CUhostFn(address), 0)  # may know of the fault already
    s.refused(d.cuStreamSynchronize(s.stream), "ILLEGAL_ADDRESS")
    assert seen == []


def check_what_needs_no_context_goes_on(s: Session) -> None:
    """Questions to the driver and to the device are answered after a fault."""
    d = s.driver
    count, version = s.ok(d.cuDeviceGetCount()), s.ok(d.cuDriverGetVersion())
    _launch(s, "copy", WILD, _memory(s))
    s.refused(d.cuStreamSynchronize(s.stream), "ILLEGAL_ADDRESS")
    assert s.ok(d.cuDeviceGetCount()) == count
    assert s.ok(d.cuDriverGetVersion()) == version
    assert s.ok(d.cuDeviceGetName(256, s.device)).rstrip(b"\0")
    assert s.ok(d.cuGetErrorName(d.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS))
    assert int(s.ok(d.cuCtxGetCurrent())) == int(s.context)
