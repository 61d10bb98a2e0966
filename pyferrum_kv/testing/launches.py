"""Checks of launches: what arrives in the kernel, and what is refused before it runs."""

from __future__ import annotations

import ctypes
import struct

import numpy as np

from pyferrum_kv.testing.ptx import SHARED, STORE, VECTOR_ADD, arguments_ptx
from pyferrum_kv.testing.session import Session


def check_vector_add(s: Session) -> None:
    """c = a + b over a ragged grid, with arguments as (values, types)."""
    d, n = s.driver, 1000
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    c = np.zeros(n, np.float32)
    pointers = [s.ok(d.cuMemAlloc(4 * n)) for _ in range(3)]
    s.ok(d.cuMemcpyHtoDAsync(pointers[0], a, a.nbytes, s.stream))
    s.ok(d.cuMemcpyHtoDAsync(pointers[1], b, b.nbytes, s.stream))
    values = (*(int(p) for p in pointers), n)
    types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    function = s.function(VECTOR_ADD, "vector_add")
    s.ok(d.cuLaunchKernel(function, 8, 1, 1, 128, 1, 1, 0, s.stream, (values, types), 0))
    s.ok(d.cuMemcpyDtoHAsync(c, pointers[2], c.nbytes, s.stream))
    s.synchronize()
    assert (c == a + b).all()
    for pointer in pointers:
        s.ok(d.cuMemFree(pointer))


def check_arguments_arrive(s: Session) -> None:
    """Every width, the extremes of each, a structure: each argument has a value of its own."""
    d = s.driver
    function = s.function(arguments_ptx(), "echo")
    out = s.ok(d.cuMemAlloc(112))
    for values in (
        (255, 65535, 2**32 - 1, 2**64 - 1, float("inf"), -1.7976931348623157e308),
        (1, 2, 3, 4, -0.0, 5e-324),
        (128, 32768, 2**31, 2**63, 1.5, 2.25),
    ):
        s.ok(d.cuMemsetD8(out, 0xEE, 112))
        s.settle()
        block = struct.pack("<QBxHIQf4xdIII", int(out), *values, 101, 102, 103)
        held = ctypes.create_string_buffer(block, len(block))
        base = ctypes.addressof(held)
        offsets = (0, 8, 10, 12, 16, 24, 32, 40)
        addresses = (ctypes.c_void_p * 8)(*(base + offset for offset in offsets))
        for given in (ctypes.addressof(addresses), addresses):
            s.ok(d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, s.stream, given, 0))
        s.synchronize()
        host = bytearray(112)
        s.ok(d.cuMemcpyDtoH(host, out, 112))
        wanted = bytearray(b"\xee" * 112)
        for i, (form, value) in enumerate(zip("BHIQfd", values, strict=True)):
            packed = struct.pack("<" + form, value)
            wanted[16 * i : 16 * i + len(packed)] = packed
        wanted[96:108] = struct.pack("<III", 101, 102, 103)
        assert host == wanted
    s.ok(d.cuMemFree(out))


def check_arguments_are_read_at_the_call(s: Session) -> None:
    """The memory of the arguments may change as soon as the launch call has returned."""
    d = s.driver
    function = s.function(STORE, "store")
    out = s.ok(d.cuMemAlloc(16))
    address, value = ctypes.c_void_p(int(out)), ctypes.c_uint32(41)
    pointers = (ctypes.c_void_p * 2)(ctypes.addressof(address), ctypes.addressof(value))
    s.ok(d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, s.stream, ctypes.addressof(pointers), 0))
    value.value, address.value = 99, 8
    s.synchronize()
    host = bytearray(4)
    s.ok(d.cuMemcpyDtoH(host, out, 4))
    assert host[0] == 41
    s.ok(d.cuMemFree(out))


def check_shared_memory_and_barrier(s: Session) -> None:
    """Dynamic shared memory behind static, exchanged across a barrier; by cuLaunchKernelEx."""
    d, n = s.driver, 96
    data = np.arange(n, dtype=np.uint32)
    pointer = s.ok(d.cuMemAlloc(4 * n))
    s.ok(d.cuMemcpyHtoD(pointer, data, 4 * n))
    config = d.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = 1
    config.blockDimX, config.blockDimY, config.blockDimZ = n, 1, 1
    config.sharedMemBytes, config.hStream = 4 * n, s.stream
    arguments = ((int(pointer), n), (ctypes.c_void_p, ctypes.c_uint32))
    s.ok(d.cuLaunchKernelEx(config, s.function(SHARED, "reverse"), arguments, 0))
    s.synchronize()
    got = np.zeros(n, np.uint32)
    s.ok(d.cuMemcpyDtoH(got, pointer, 4 * n))
    assert (got == data[::-1]).all()
    s.ok(d.cuMemFree(pointer))


def check_impossible_launches_are_refused(s: Session) -> None:
    """Empty or too large grids and CTAs, too much shared memory: refused, and nothing is lost."""
    d = s.driver
    function = s.function(STORE, "multiply")
    out = s.ok(d.cuMemAlloc(256))
    arguments = ((int(out), 1), (ctypes.c_void_p, ctypes.c_uint32))

    def launch(grid: tuple[int, int, int], block: tuple[int, int, int], shared: int = 0) -> object:
        return d.cuLaunchKernel(function, *grid, *block, shared, s.stream, arguments, 0)

    for grid, block, shared in (
        ((0, 1, 1), (32, 1, 1), 0),
        ((1, 65536, 1), (32, 1, 1), 0),
        ((1, 1, 1), (0, 1, 1), 0),
        ((1, 1, 1), (2048, 1, 1), 0),
        ((1, 1, 1), (1, 1, 65), 0),
        ((1, 1, 1), (96, 1, 1), 0),
        ((1, 1, 1), (32, 1, 1), 64 << 10),
    ):
        answer = launch(grid, block, shared)
        assert isinstance(answer, tuple)
        s.refused(answer, "INVALID_VALUE", "LAUNCH_OUT_OF_RESOURCES")
    s.ok(d.cuMemsetD8(out, 1, 256))
    s.settle()
    answer = launch((1, 1, 1), (64, 1, 1))
    assert isinstance(answer, tuple)
    s.ok(answer)
    s.synchronize()
    s.ok(d.cuMemFree(out))


def check_cooperative_launch_must_fit(s: Session) -> None:
    """A cooperative grid that cannot be resident at once is refused."""
    d = s.driver
    function = s.function(VECTOR_ADD, "vector_add")
    arguments = ((0, 0, 0, 0), (ctypes.c_void_p,) * 3 + (ctypes.c_int,))
    launch = d.cuLaunchCooperativeKernel
    answer = launch(function, 100_000, 1, 1, 1024, 1, 1, 0, s.stream, arguments)
    s.refused(answer, "COOPERATIVE_LAUNCH_TOO_LARGE")
    s.ok(launch(function, 4, 1, 1, 128, 1, 1, 0, s.stream, arguments))
    s.synchronize()


def check_a_library_gives_the_same_kernels(s: Session) -> None:
    """cuLibraryLoadData, its kernel as a function of this context, launched."""
    d = s.driver
    library = s.ok(d.cuLibraryLoadData(STORE.encode() + b"\0", [], [], 0, [], [], 0))
    kernel = s.ok(d.cuLibraryGetKernel(library, b"store"))
    function = s.ok(d.cuKernelGetFunction(kernel))
    out = s.ok(d.cuMemAlloc(16))
    arguments = ((int(out), 77), (ctypes.c_void_p, ctypes.c_uint32))
    s.ok(d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, s.stream, arguments, 0))
    s.synchronize()
    host = bytearray(4)
    s.ok(d.cuMemcpyDtoH(host, out, 4))
    assert host[0] == 77
    s.ok(d.cuMemFree(out))
    s.ok(d.cuLibraryUnload(library))
