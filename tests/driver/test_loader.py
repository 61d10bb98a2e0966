"""PtxLoader: the package's own bundle, loaded once, chosen by device and driver."""

from __future__ import annotations

import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext, CudaStream, PtxBundle, PtxLoader, errors

ENTRY = "int8_kv_cache_append"


def test_one_loader_for_a_context_and_bundle(ctx: CudaContext) -> None:
    loader = PtxLoader.of(ctx)
    assert PtxLoader.of(ctx, PtxBundle.default()) is loader
    assert loader.function(ENTRY) is loader.function(ENTRY)


def test_functions_carry_the_manifests_signature(ctx: CudaContext) -> None:
    function = PtxLoader.of(ctx).function(ENTRY)
    assert function.signature == PtxBundle.default().signature(ENTRY)
    assert function.signature.params[0].ctype == "const f16*"


def test_explain_names_file_target_and_driver(ctx: CudaContext) -> None:
    loader = PtxLoader.of(ctx)
    target = loader.variant(ENTRY).target
    assert f"{ENTRY}.{target}.ptx: PTX ISA 8.0 for {target}" in loader.explain(ENTRY)
    assert loader.explain(ENTRY).startswith(f"{ENTRY}(const f16* k")


def test_unknown_entry_suggests_the_known(ctx: CudaContext) -> None:
    with pytest.raises(errors.EntryNotFound, match=f"did you mean {ENTRY}"):
        PtxLoader.of(ctx).function("int8_kv_cache_apend")


def test_older_device_takes_the_older_target_or_none(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FakeDriver.attributes, "COMPUTE_CAPABILITY_MAJOR", 8)
    loader = PtxLoader.of(CudaContext.new(0, driver=fake))
    assert loader.variant(ENTRY).target == "sm_80"
    monkeypatch.setitem(FakeDriver.attributes, "COMPUTE_CAPABILITY_MAJOR", 7)
    old = PtxLoader.of(CudaContext.new(1, driver=fake))
    with pytest.raises(errors.NoVariant, match=r"for compute capability 7.0"):
        old.function(ENTRY)
    assert fake.count("cuModuleLoadDataEx") == 0


@pytest.mark.slow
def test_every_entry_that_the_device_can_run_is_preloaded(ctx: CudaContext) -> None:
    loader = PtxLoader.of(ctx)
    loader.preload()
    served = [entry for entry in loader.bundle.entries if loader.serves(entry)]
    assert f"{len(served)} of {len(loader.bundle.entries)} entries loaded" in repr(loader)
    assert all(loader.function(entry).name == entry for entry in served)


def test_what_only_hopper_runs_is_served_where_its_copy_engine_is(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = {entry for entry in PtxBundle.default().entries if "_tma_" in entry}
    newest |= {entry for entry in PtxBundle.default().entries if "_cluster_" in entry}
    assert newest

    def not_served(ordinal: int) -> set[str]:
        loader = PtxLoader.of(CudaContext.new(ordinal, driver=fake))
        return {entry for entry in loader.bundle.entries if not loader.serves(entry)}

    assert not_served(0) == set()
    monkeypatch.setitem(FakeDriver.attributes, "TENSOR_MAP_ACCESS_SUPPORTED", 0)
    CudaContext.new(0, driver=fake).close()
    assert not_served(0) == newest
    monkeypatch.setitem(FakeDriver.attributes, "COMPUTE_CAPABILITY_MAJOR", 8)
    assert not_served(1) == newest


def test_a_capture_meets_nothing_unloaded_after_preload(
    ctx: CudaContext, stream: CudaStream
) -> None:
    loader, x = PtxLoader.of(ctx), stream.alloc(4, "f4")
    with stream.capture():
        with pytest.raises(errors.CaptureError, match=r"PtxLoader.of\(ctx\).preload\(\) before"):
            loader.function(ENTRY)
        stream.memset_zeros(x)
    loader.preload(ENTRY)
    with stream.capture():
        stream.memset_zeros(x)
        assert loader.function(ENTRY).name == ENTRY
