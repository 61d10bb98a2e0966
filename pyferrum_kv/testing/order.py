"""Checks of streams and events: what is ordered, what is known when, host functions."""

from __future__ import annotations

import ctypes

import numpy as np

from pyferrum_kv.testing.session import Session


def check_a_stream_is_in_order(s: Session) -> None:
    """Operations of one stream see what the ones before did."""
    d = s.driver
    a, b = (s.ok(d.cuMemAlloc(4096)) for _ in range(2))
    host = np.zeros(1024, np.uint32)
    for value in (1, 2, 3):
        s.ok(d.cuMemsetD32Async(a, value, 1024, s.stream))
    s.ok(d.cuMemcpyDtoDAsync(b, a, 4096, s.stream))
    s.ok(d.cuMemsetD32Async(a, 4, 1024, s.stream))
    s.ok(d.cuMemcpyDtoHAsync(host, b, 4096, s.stream))
    s.synchronize()
    assert (host == 3).all()
    for pointer in (a, b):
        s.ok(d.cuMemFree(pointer))


def check_pageable_source_may_be_reused(s: Session) -> None:
    """An asynchronous copy from pageable memory has taken the bytes when the call returns."""
    d = s.driver
    pointer = s.ok(d.cuMemAlloc(4096))
    source = np.full(1024, 6, np.uint32)
    s.ok(d.cuMemcpyHtoDAsync(pointer, source, 4096, s.stream))
    source[:] = 0
    got = np.zeros(1024, np.uint32)
    s.synchronize()
    s.ok(d.cuMemcpyDtoH(got, pointer, 4096))
    assert (got == 6).all()
    s.ok(d.cuMemFree(pointer))


def check_an_event_orders_two_streams(s: Session) -> None:
    """A stream that waits for an event sees what came before its record."""
    d = s.driver
    other = s.ok(d.cuStreamCreate(1))
    event = s.ok(d.cuEventCreate(2))
    pointer = s.ok(d.cuMemAlloc(1 << 20))
    host = np.zeros(1 << 18, np.uint32)
    s.ok(d.cuMemsetD32Async(pointer, 8, 1 << 18, s.stream))
    s.ok(d.cuEventRecord(event, s.stream))
    s.ok(d.cuStreamWaitEvent(other, event, 0))
    s.ok(d.cuMemcpyDtoHAsync(host, pointer, 1 << 20, other))
    s.ok(d.cuStreamSynchronize(other))
    assert (host == 8).all()
    s.synchronize()
    s.ok(d.cuEventDestroy(event))
    s.ok(d.cuStreamDestroy(other))
    s.ok(d.cuMemFree(pointer))


def check_the_default_stream_waits_for_blocking_ones(s: Session) -> None:
    """The legacy default stream comes after blocking streams, and they after it."""
    d = s.driver
    blocking = s.ok(d.cuStreamCreate(0))
    pointer = s.ok(d.cuMemAlloc(4096))
    host = np.zeros(1024, np.uint32)
    s.ok(d.cuMemsetD32Async(pointer, 1, 1024, blocking))
    s.ok(d.cuMemsetD32Async(pointer, 2, 1024, d.CUstream(0)))
    s.ok(d.cuMemcpyDtoHAsync(host, pointer, 4096, blocking))
    s.ok(d.cuStreamSynchronize(blocking))
    assert (host == 2).all()
    s.ok(d.cuStreamDestroy(blocking))
    s.ok(d.cuMemFree(pointer))


def check_events_measure(s: Session) -> None:
    """Elapsed time is not negative; events without timing, or not recorded, have none."""
    d = s.driver
    start, end, bare = (s.ok(d.cuEventCreate(flags)) for flags in (0, 0, 2))
    s.refused(d.cuEventElapsedTime(start, end), "INVALID_HANDLE")
    s.ok(d.cuEventQuery(start))
    for event in (start, end, bare):
        s.ok(d.cuEventRecord(event, s.stream))
    s.ok(d.cuEventSynchronize(end))
    assert s.ok(d.cuEventElapsedTime(start, end)) >= 0.0
    s.ok(d.cuEventSynchronize(bare))
    s.refused(d.cuEventElapsedTime(start, bare), "INVALID_HANDLE")
    for event in (start, end, bare):
        s.ok(d.cuEventDestroy(event))


def check_polling_ends(s: Session) -> None:
    """A query is SUCCESS or NOT_READY, and a loop over it comes to an end."""
    d = s.driver
    pointer = s.ok(d.cuMemAlloc(4096))
    s.ok(d.cuMemsetD32Async(pointer, 1, 1024, s.stream))
    ready, waiting = d.CUresult.CUDA_SUCCESS, d.CUresult.CUDA_ERROR_NOT_READY
    for _ in range(10_000_000):
        (status,) = d.cuStreamQuery(s.stream)
        assert status in (ready, waiting), repr(status)
        if status == ready:
            break
    else:
        raise AssertionError("the stream never became ready")
    s.ok(d.cuMemFree(pointer))


def check_host_functions_run_in_order(s: Session) -> None:
    """A host function runs after what came before in its stream, and before what follows."""
    d = s.driver
    seen: list[int] = []
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(data or 0))
    address = ctypes.cast(call, ctypes.c_void_p).value
    for number in (11, 12, 13):
        s.ok(d.cuLaunchHostFunc(s.stream, d.CUhostFn(address), number))
    s.synchronize()
    assert seen == [11, 12, 13]
