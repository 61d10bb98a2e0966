"""Frozen launches: what they stand on, and their end."""

from __future__ import annotations

import gc

import pytest
from helpers.fake_driver import FakeDriver
from helpers.frozen import frozen, prepared
from helpers.kernels import AXPY

from pyferrum_kv import (
    CudaContext,
    LaunchConfig,
    errors,
)


@pytest.mark.parametrize("keep", [True, False])
def test_a_closed_argument_makes_it_stale(ctx: CudaContext, keep: bool) -> None:
    stream = ctx.new_stream()
    y, z = stream.alloc_zeros(40, "f4"), stream.alloc_zeros(40, "f4")
    function = ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(
        LaunchConfig(2, 32), z, y[:], 40, 1.0, stream=stream, keep_arguments=keep
    )
    ice = launch.freeze()
    ice.launch()
    y.close()
    for stale in (ice.launch, ice.clone, launch.freeze):
        with pytest.raises(errors.ClosedError, match=r"launch of axpy .* argument 2 'y' is"):
            stale()
    ice.set("y", z).launch()
    ice.launch()
    z.close()
    with pytest.raises(errors.ClosedError, match="argument 1 'x' is"):
        ice.launch()


def test_kept_arguments_live_until_it_is_closed(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    _, y, launch = prepared(fake_ctx)
    ice = launch.freeze()
    ice.launch()
    del y, launch
    gc.collect()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 0
    ice.close()
    fake_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 2


def test_a_dropped_argument_that_is_not_kept_makes_it_stale(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    x = stream.alloc(40, "f4")
    function = fake_ctx.load_module(AXPY).function("axpy")
    launch = function.prepare(
        LaunchConfig(2, 32), x, None, 40, 1.0, stream=stream, keep_arguments=False
    )
    ice = launch.freeze()
    ice.launch()
    twin = ice.clone()
    del x
    gc.collect()
    for stale in (ice.launch, twin.launch, ice.clone, launch.freeze):
        with pytest.raises(errors.ClosedError, match="argument 'x' is gone"):
            stale()
    assert fake.count("cuGraphLaunch") == 1


def test_what_it_stands_on_may_be_closed(ctx: CudaContext) -> None:
    stream, _, launch = frozen(ctx)
    other = stream.fork()
    stream.close()
    with pytest.raises(errors.ClosedError, match="stream"):
        launch.launch()
    launch.launch(other)
    other.synchronize()
    launch.function.module.close()
    for refused in (lambda: launch.launch(other), lambda: launch.set("n", 1)):
        with pytest.raises(errors.ClosedError, match="axpy: <CudaModule"):
            refused()
    launch.close()


def test_closing_is_for_good_and_once(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    _, _, launch = frozen(fake_ctx)
    launch.close()
    launch.close()
    assert fake.names()[-2:] == ["cuGraphExecDestroy", "cuGraphDestroy"]
    assert fake.count("cuGraphExecDestroy") == fake.count("cuGraphDestroy") == 1
    for name in ("launch", "upload", "clone"):
        with pytest.raises(errors.ClosedError, match=f"{name} of axpy .* frozen launch is closed"):
            getattr(launch, name)()
    with pytest.raises(errors.ClosedError, match="set of axpy"):
        launch.set("n", 1)
    with pytest.raises(errors.ClosedError, match="launch of axpy"):
        launch.launch_with([("n", 1)])
    with pytest.raises(errors.ClosedError, match="handle of axpy"):
        _ = launch.handle
    assert repr(launch).endswith("closed>")


def test_dropped_it_is_given_back_before_its_module(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    _, y, launch = frozen(fake_ctx)
    del launch, y
    gc.collect()
    fake_ctx.synchronize()
    fake_ctx.synchronize()
    gone = [name for name in fake.names() if "Destroy" in name or "Unload" in name]
    assert sorted(gone[:2]) == ["cuGraphDestroy", "cuGraphExecDestroy"]
    assert "cuModuleUnload" not in gone[:2]


@pytest.mark.parametrize(
    "call", ["cuGraphCreate", "cuGraphAddKernelNode", "cuGraphInstantiate", "SetAttribute"]
)
def test_it_is_made_whole_or_not_at_all(fake: FakeDriver, fake_ctx: CudaContext, call: str) -> None:
    _, _, launch = prepared(fake_ctx)
    launch.configure(LaunchConfig(2, 32, cluster_dim=2))
    out = len(fake_ctx.ledger)
    name = "cuGraphKernelNodeSetAttribute" if call == "SetAttribute" else call
    fake.fail(name, "OUT_OF_MEMORY")
    with pytest.raises(errors.DriverError, match=name):
        launch.freeze()
    assert fake.count("cuGraphDestroy") == (call != "cuGraphCreate")
    assert len(fake_ctx.ledger) == out
    launch.launch()
