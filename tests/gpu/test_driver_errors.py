"""What a real driver says when something is wrong, and what is left of the process."""

from __future__ import annotations

import pytest
from helpers.child import USE_AFTER_FORK, run_child
from helpers.kernels import AXPY, CLUSTER

from pyferrum_kv import CudaContext, DeviceNotFound, ModuleLoadError

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu_ctx")]


@pytest.mark.parametrize(
    ("ptx", "name", "said"),
    [
        (AXPY.replace(".version 8.0", ".version 9.9"), "UNSUPPORTED_PTX_VERSION", "ISA 9.9"),
        (CLUSTER.replace("sm_90", "sm_100"), "INVALID_PTX", "this is sm_"),
        ("no PTX at all\n" * 3, "INVALID_IMAGE", "do not read as PTX"),
    ],
)
def test_verdict_on_ptx(gpu_ctx: CudaContext, ptx: str, name: str, said: str) -> None:
    if name == "INVALID_PTX" and gpu_ctx.compute_capability >= (10, 0):
        ptx = ptx.replace("sm_100", "sm_999")
    with pytest.raises(ModuleLoadError) as caught:
        gpu_ctx.load_module(ptx, name="it.ptx")
    text = str(caught.value)
    assert text.startswith(f"cuModuleLoadDataEx(it.ptx): CUDA_ERROR_{name} ")
    assert said in text


def test_jit_log_says_line_and_reason(gpu_ctx: CudaContext) -> None:
    broken = AXPY.replace("add.f32 %f5", "bogus.f32 %f5")
    with pytest.raises(ModuleLoadError) as caught:
        gpu_ctx.load_module(broken)
    line = 1 + broken[: broken.index("bogus.f32")].count("\n")
    assert caught.value.name == "CUDA_ERROR_INVALID_PTX"
    assert f"line {line}" in caught.value.log
    assert caught.value.log in str(caught.value)


def test_good_module_has_a_jit_log_of_its_own_or_none(gpu_ctx: CudaContext) -> None:
    assert "error" not in gpu_ctx.load_module(AXPY).jit_log.lower()


def test_device_that_is_not_there() -> None:
    with pytest.raises(DeviceNotFound, match="device 99"):
        CudaContext.new(99, driver="cuda")


STICKY = """
from helpers.kernels import OUT_OF_BOUNDS
function = ctx.load_module(OUT_OF_BOUNDS).function("stray_store")
stray = stream.slice_from_ptr(16, 1, "u4")
stream.launch_builder(function).arg(stray).launch(LaunchConfig(1, 1))
said = []
for _ in range(2):
    try:
        stream.synchronize()
    except ContextLost as error:
        said.append(error)
assert ctx.state == "lost", ctx
assert [e.name for e in said] == ["CUDA_ERROR_ILLEGAL_ADDRESS"] * 2, said
assert all("launch of stray_store grid (1, 1, 1)" in str(e) for e in said), said
try:
    ctx.new_stream()
except ContextLost as error:
    said.append(error)
assert said[-1].call == "cuStreamCreateWithPriority"
assert said[-1].first_cause == said[0].first_cause
x.close(); stream.close(); ctx.close(); ctx.close()
"""


def test_sticky_error_loses_the_context_and_closes_quietly() -> None:
    assert run_child("cuda", STICKY) == (0, "")


def test_forked_child_is_told_and_the_parent_goes_on() -> None:
    assert run_child("cuda", USE_AFTER_FORK) == (0, "")


SHUTDOWN = """
from helpers.kernels import AXPY
function = ctx.load_module(AXPY).function("axpy")
launch = function.prepare(LaunchConfig(1, 32), x, x, 16, 1.0, stream=stream)
with stream.capture() as graph:
    launch.launch()
graph.launch()
stream.call_on_host(lambda: None)
stream.synchronize()
pinned, unified, event = ctx.alloc_pinned(8, "f4"), ctx.alloc_unified(8, "f4"), ctx.new_event()
other = CudaContext.create(0, driver=DRIVER)
cycle = [ctx, graph, launch, pinned, unified, event, other]
cycle.append(cycle)
"""


@pytest.mark.parametrize("last", ["", "ctx.close()", "del x, stream, launch, graph"])
def test_interpreter_shutdown_is_quiet(last: str) -> None:
    assert run_child("cuda", SHUTDOWN + last) == (0, "")
