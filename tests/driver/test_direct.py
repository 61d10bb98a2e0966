"""Launches that go to the driver's own address: what arrives there, and what its answers become."""

from __future__ import annotations

import ctypes
import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.fake_driver import FakeDriver
from helpers.kernels import AXPY
from helpers.native_launch import PROTOTYPE, Native, ready

from pyferrum_kv import CudaContext, LaunchConfig, errors
from pyferrum_kv.driver.direct import LaunchEx


def test_everything_arrives_where_the_driver_reads_it(
    native: Native, fake: FakeDriver, direct_ctx: CudaContext
) -> None:
    stream, x, y, launch = ready(direct_ctx)
    launch.launch()
    launch.launch_with([("n", 7), ("a", 0.5)])
    other = direct_ctx.new_stream()
    launch.launch(other)
    first, second, third = native.seen
    assert first["dims"] == [2, 1, 1, 32, 1, 1, 64]
    assert first["function"] == launch.function.handle
    assert first["extra"] is None
    assert first["arguments"] == (x.device_ptr, y.device_ptr, 40, 2.0)
    assert second["arguments"] == third["arguments"] == (x.device_ptr, y.device_ptr, 7, 0.5)
    assert [seen["stream"] for seen in native.seen] == [stream.handle, stream.handle, other.handle]
    assert fake.count("cuLaunchKernelEx") == 0
    assert native.asked == [(b"cuLaunchKernelEx", 11060, 0)]


def test_a_kernel_without_parameters_has_none(direct_ctx: CudaContext) -> None:
    given = []
    taken = PROTOTYPE(lambda config, function, params, extra: given.append(params) or 0)
    direct_ctx.api.launch_ex = LaunchEx.at(ctypes.cast(taken, ctypes.c_void_p).value or 0)
    ptx = AXPY.split(".visible")[0] + ".visible .entry nothing()\n{\n    ret;\n}\n"
    function = direct_ctx.load_module(ptx).function("nothing")
    function.prepare(LaunchConfig(1, 1), stream=direct_ctx.new_stream()).launch()
    assert given == [None]


def test_failures_keep_their_names(native: Native, direct_ctx: CudaContext) -> None:
    _, _, _, launch = ready(direct_ctx)
    native.answers = [701, 9999, 700]
    said = r"cuLaunchKernelEx\(axpy grid .*CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"
    with pytest.raises(errors.DriverError, match=said):
        launch.launch()
    with pytest.raises(errors.DriverError, match="9999"):
        launch.launch()
    with pytest.raises(errors.ContextLost, match="ILLEGAL_ADDRESS"):
        launch.launch()
    with pytest.raises(errors.ContextLost, match="lost since CUDA_ERROR_ILLEGAL_ADDRESS"):
        launch.launch()
    assert len(native.seen) == 3


def test_a_foreign_context_is_noticed_and_the_launch_repeated(
    native: Native, fake: FakeDriver, direct_ctx: CudaContext
) -> None:
    _, _, _, launch = ready(direct_ctx)
    fake._cuCtxSetCurrent(fake.CUcontext(0xBAD))  # another library's work
    native.answers = [201]
    launch.launch()
    assert len(native.seen) == 2
    assert int(fake._cuCtxGetCurrent()[0]) == direct_ctx.handle


def test_stream_0_means_what_it_means_to_the_bindings(
    native: Native, direct_ctx: CudaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "1")
    ready(direct_ctx)[3].launch()
    assert native.asked == [(b"cuLaunchKernelEx", 11060, 2)]


def test_frozen_launches_go_to_an_address_of_their_own(
    fake: FakeDriver, native: Native, module: ModuleType, direct_ctx: CudaContext
) -> None:
    seen: list[tuple[int, int]] = []
    answers = [0, 0, 201, 0, 701]
    taken = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(
        lambda executable, stream: seen.append((executable, stream)) or answers.pop(0)  # type: ignore[func-returns-value]
    )
    address = ctypes.cast(taken, ctypes.c_void_p).value

    def find(*args: Any) -> tuple[Any, ...]:
        native.asked.append(args)
        return fake.CUresult.CUDA_SUCCESS, address, None

    module.cuGetProcAddress = find  # type: ignore[attr-defined]
    stream, _, _, launch = ready(direct_ctx)
    ice, other = launch.freeze(), direct_ctx.new_stream()
    assert native.asked.pop() == (b"cuGraphLaunch", 10000, 0)
    ice.launch()
    ice.launch_with([("n", 7)], other)
    fake._cuCtxSetCurrent(fake.CUcontext(0xBAD))  # another library's work
    ice.launch()
    with pytest.raises(errors.DriverError, match=r"cuGraphLaunch\(axpy .*OUT_OF_RESOURCES"):
        ice.launch()
    targets = (stream, other, stream, stream, stream)
    assert seen == [(ice.handle, target.handle) for target in targets]
    assert fake.count("cuGraphLaunch") == 0


def test_a_driver_that_does_not_tell_is_called_by_name(
    native: Native, fake: FakeDriver, module: ModuleType
) -> None:
    def find(*args: Any) -> tuple[Any, ...]:
        return fake.CUresult.CUDA_ERROR_NOT_FOUND, 0, None

    module.cuGetProcAddress = find  # type: ignore[attr-defined]
    with CudaContext.new(0, driver=module) as context:
        ready(context)[3].launch()
    assert fake.count("cuLaunchKernelEx") == 1
    assert native.seen == []
    context.close()


def test_only_the_bindings_own_module_is_gone_round(fake: FakeDriver, native: Native) -> None:
    with CudaContext.new(0, driver=fake) as context:
        ready(context)[3].launch()
    assert fake.count("cuGetProcAddress") == 0
    assert fake.count("cuLaunchKernelEx") == 1
    context.close()


def test_other_threads_run_during_the_call() -> None:
    libc = ctypes.CDLL(None)
    call = LaunchEx.at(ctypes.cast(libc.nanosleep, ctypes.c_void_p).value or 0).call
    half_a_second = (ctypes.c_long * 2)(0, 500_000_000)
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.wait(0.01):
            turns += 1

    thread = threading.Thread(target=count)
    thread.start()
    assert call(ctypes.byref(half_a_second), None) == 0
    done.set()
    thread.join()
    assert turns > 3


def test_numpy_arguments_arrive_too(native: Native, direct_ctx: CudaContext) -> None:
    stream, x, _, launch = ready(direct_ctx)
    builder = stream.launch_builder(launch.function).args(x, None, np.uint32(9), np.float32(0.25))
    builder.launch(LaunchConfig(1, 1))
    assert native.seen[0]["arguments"] == (x.device_ptr, 0, 9, 0.25)
