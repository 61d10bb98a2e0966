"""Lazy streams, poison, the default streams, and hazards between streams."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from helpers.virtual_bench import Bench, R

N = 64


def test_nothing_happens_before_somebody_waits():
    bench = Bench()
    pointer, stream = bench.filled(N, 1), bench.stream()
    bench.do("cuMemsetD8Async", pointer, 9, N, stream)
    memory = bench.driver.machine.devices[0].memory
    assert memory.read(int(pointer), 1)[0] == 1
    bench.do("cuStreamSynchronize", stream)
    assert memory.read(int(pointer), 1)[0] == 9


def test_an_eager_device_works_at_the_call():
    bench = Bench(lazy=False)
    pointer, stream = bench.filled(N, 1), bench.stream()
    host = np.zeros(N, np.uint8)
    bench.do("cuMemsetD8Async", pointer, 9, N, stream)
    bench.do("cuMemcpyDtoHAsync", host, pointer, N, stream)
    assert (host == 9).all()


def test_a_destination_holds_poison_until_the_synchronisation():
    bench = Bench()
    pointer, stream = bench.filled(N, 1), bench.stream()
    host = np.zeros(N, np.uint8)
    bench.do("cuMemcpyDtoHAsync", host, pointer, N, stream)
    assert (host == 0xA5).all()
    bench.do("cuStreamSynchronize", stream)
    assert (host == 1).all()


def test_pinned_memory_that_is_still_to_be_read_is_not_poisoned():
    bench = Bench()
    pointer, stream = bench.filled(N, 1), bench.stream()
    address = bench.do("cuMemHostAlloc", N, 0)
    memory = bench.driver.machine.devices[0].memory
    memory.write(address, bytes([7]) * N)
    bench.do("cuMemcpyHtoDAsync", pointer, address, N, stream)
    bench.do("cuMemcpyDtoHAsync", address, pointer, N, stream)
    bench.do("cuStreamSynchronize", stream)
    assert bench.bytes_at(pointer, N) == bytes([7]) * N


def test_a_bare_pageable_address_is_written_before_the_call_returns():
    bench = Bench()
    pointer, stream = bench.filled(N, 3), bench.stream()
    host = np.zeros(N, np.uint8)
    bench.do("cuMemcpyDtoHAsync", host.ctypes.data, pointer, N, stream)
    assert (host == 3).all()


def test_synchronising_one_stream_leaves_the_others():
    bench = Bench()
    a, b = bench.filled(N, 1), bench.filled(N, 1)
    first, second = bench.stream(), bench.stream()
    bench.do("cuMemsetD8Async", a, 2, N, first)
    bench.do("cuMemsetD8Async", b, 2, N, second)
    bench.do("cuStreamSynchronize", first)
    memory = bench.driver.machine.devices[0].memory
    assert (memory.read(int(a), 1)[0], memory.read(int(b), 1)[0]) == (2, 1)
    bench.do("cuCtxSynchronize")
    assert memory.read(int(b), 1)[0] == 2


def test_the_default_stream_does_not_wait_for_non_blocking_streams():
    bench = Bench()
    pointer, stream = bench.filled(N, 1), bench.stream(flags=1)
    bench.do("cuMemsetD8Async", pointer, 2, N, stream)
    host = bytearray(N)
    assert bench.status("cuMemcpyDtoH", host, pointer, N) == R.CUDA_SUCCESS
    assert host == bytes([1]) * N
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_LAUNCH_FAILED
    assert [r.kind for r in bench.driver.reports] == ["stream_hazard"]


def test_the_per_thread_default_stream_is_the_threads_own():
    bench = Bench()
    stream = bench.driver.CUstream(2)
    mine = bench.do("cuStreamGetId", stream)
    others = []

    def other_thread():
        bench.do("cuCtxSetCurrent", bench.context)
        others.append(bench.do("cuStreamGetId", stream))

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert others != [mine]


def test_a_fill_has_only_begun_when_its_call_returns():
    bench = Bench(on_report="collect")
    pointer = bench.do("cuMemAlloc", N)
    bench.do("cuMemsetD8", pointer, 2, N)
    bench.do("cuMemsetD8Async", pointer, 3, N, bench.stream())
    bench.do("cuCtxSynchronize")
    assert [report.kind for report in bench.driver.reports] == ["stream_hazard"]


def diamond(bench):
    """Two streams that add into what a third wrote, joined by events; returns the bytes."""
    root, left, right = (bench.stream() for _ in range(3))
    a, b, c = (bench.filled(N, 0) for _ in range(3))
    forked, *joined = (bench.do("cuEventCreate", 2) for _ in range(3))
    bench.do("cuMemsetD8Async", a, 5, N, root)
    bench.do("cuEventRecord", forked, root)
    for stream, target, event in ((left, b, joined[0]), (right, c, joined[1])):
        bench.do("cuStreamWaitEvent", stream, forked, 0)
        bench.do("cuMemcpyDtoDAsync", target, a, N, stream)
        bench.do("cuEventRecord", event, stream)
        bench.do("cuStreamWaitEvent", root, event, 0)
    bench.do("cuMemsetD8Async", a, 6, N, root)
    host = bytearray(N)
    bench.do("cuMemcpyDtoHAsync", host, c, N, root)
    bench.do("cuStreamSynchronize", root)
    return bench.bytes_at(a, N) + bench.bytes_at(b, N) + bytes(host)


@pytest.mark.parametrize("seed", range(8))
def test_a_shuffle_of_ready_streams_changes_nothing(seed):
    assert diamond(Bench(seed=seed)) == bytes([6]) * N + bytes([5]) * 2 * N


def hazard(bench, first, second, *, ordered):
    """Run two operations in two streams, ordered by an event or not; the reports."""
    one, two = bench.stream(), bench.stream()
    first(one)
    if ordered:
        event = bench.do("cuEventCreate", 2)
        bench.do("cuEventRecord", event, one)
        bench.do("cuStreamWaitEvent", two, event, 0)
    second(two)
    bench.driver.cuCtxSynchronize()
    return [report.kind for report in bench.driver.reports]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("case", ["write write", "write read", "read write", "read read", "apart"])
def test_unordered_streams_that_share_bytes_are_reported(case, ordered):
    bench = Bench(on_report="collect")
    pointer, other = bench.filled(2 * N, 1), bench.filled(N, 1)
    half = bench.driver.CUdeviceptr(int(pointer) + N)

    def write(stream, at=pointer):
        bench.do("cuMemsetD8Async", at, 2, N, stream)

    def read(stream):
        bench.do("cuMemcpyDtoDAsync", bench.filled(N, 0), pointer, N, stream)

    cases = {
        "write write": (write, write, 1),
        "write read": (write, read, 1),
        "read write": (read, write, 1),
        "read read": (read, read, 0),
        "apart": (write, lambda stream: write(stream, half), 0),
    }
    first, second, expected = cases[case]
    del other
    found = hazard(bench, first, second, ordered=ordered)
    assert found == ["stream_hazard"] * (0 if ordered else expected)


def test_a_host_synchronisation_orders_streams():
    bench = Bench()
    pointer = bench.filled(N, 1)
    one, two = bench.stream(), bench.stream()
    bench.do("cuMemsetD8Async", pointer, 2, N, one)
    bench.do("cuStreamSynchronize", one)
    bench.do("cuMemsetD8Async", pointer, 3, N, two)
    bench.do("cuCtxSynchronize")
    assert not bench.driver.reports


def test_freeing_in_one_stream_what_another_uses_is_a_hazard():
    bench = Bench(on_report="collect")
    one, two = bench.stream(), bench.stream()
    pointer = bench.do("cuMemAllocAsync", N, one)
    bench.do("cuMemsetD8Async", pointer, 2, N, one)
    bench.do("cuMemFreeAsync", pointer, two)
    bench.driver.cuCtxSynchronize()
    assert bench.driver.reports


def test_the_report_names_both_operations():
    bench = Bench()
    pointer = bench.filled(N, 1)
    one, two = bench.stream(), bench.stream()
    bench.do("cuMemsetD8Async", pointer, 2, N, one)
    bench.do("cuMemcpyDtoDAsync", bench.filled(N, 0), pointer, N, two)
    assert bench.status("cuCtxSynchronize") == R.CUDA_ERROR_LAUNCH_FAILED
    text = bench.driver.last_error
    assert "cuMemsetD8 of 64 bytes" in text
    assert "cuMemcpyDtoD of 64 bytes" in text


def test_a_query_advances_the_device():
    bench = Bench()
    pointer, stream = bench.filled(N, 1), bench.stream()
    for _ in range(3):
        bench.do("cuMemsetD8Async", pointer, 2, N, stream)
    answers = [bench.status("cuStreamQuery", stream) for _ in range(4)]
    assert answers == [R.CUDA_ERROR_NOT_READY] * 3 + [R.CUDA_SUCCESS]


def test_clocks_do_not_grow_with_streams_that_came_and_went():
    bench = Bench()
    pointer = bench.filled(N, 1)
    for _ in range(50):
        stream = bench.stream()
        bench.do("cuMemsetD8Async", pointer, 2, N, stream)
        bench.do("cuStreamSynchronize", stream)
        bench.do("cuStreamDestroy", stream)
    order = bench.driver.machine.order
    assert not order.unjoined
    assert not order.host
