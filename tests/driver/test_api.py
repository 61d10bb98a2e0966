"""The seam: what a driver's answer becomes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext, device_count, errors
from pyferrum_kv.driver import open_driver
from pyferrum_kv.driver.codes import explain_code


@pytest.mark.slow
def test_importing_the_package_imports_no_cuda_bindings() -> None:
    code = "import sys, pyferrum_kv; sys.exit('cuda.bindings' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_object_is_opened_once(fake: FakeDriver) -> None:
    assert open_driver(fake) is open_driver(fake)
    assert fake.count("cuInit") <= 2  # an unused Api may go between the two


def test_the_virtual_driver_is_one_for_the_process() -> None:
    assert open_driver("virtual") is open_driver("virtual")


def test_environment_names_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFERRUM_KV_DRIVER", "virtual")
    assert open_driver().name == "virtual"


def test_unknown_driver_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="driver is 'hip'; wanted 'cuda', 'virtual'"):
        open_driver("hip")


def test_error_names_call_object_code_meaning_and_next_step(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    stream = fake_ctx.new_stream()
    fake.fail("cuMemAllocFromPoolAsync", "OUT_OF_MEMORY")
    with pytest.raises(errors.DriverError) as caught:
        stream.alloc(1 << 20, "f4")
    error = caught.value
    assert (error.call, error.code) == ("cuMemAllocFromPoolAsync", 2)
    assert str(error).startswith(
        f"cuMemAllocFromPoolAsync(4194304 bytes, {stream!r}): CUDA_ERROR_OUT_OF_MEMORY (2): "
        "not enough free memory; free slices"
    )


@pytest.mark.parametrize(
    "text", ["Failed to dlopen libcuda.so.1", "Failed to get cuGetProcAddress_v2"]
)
def test_missing_library_is_driver_not_found(fake: FakeDriver, text: str) -> None:
    fake.raises["cuInit"] = RuntimeError(text)
    with pytest.raises(errors.DriverNotFound, match=text):
        CudaContext.new(0, driver=fake)


def test_missing_function_says_the_driver_is_old(fake: FakeDriver, fake_ctx: CudaContext) -> None:
    class FunctionNotFoundError(RuntimeError): ...

    fake.raises["cuMemGetInfo"] = FunctionNotFoundError("function cuMemGetInfo is not found")
    with pytest.raises(errors.DriverNotFound, match="cuMemGetInfo: this driver is too old"):
        fake_ctx.mem_info()


def test_a_drivers_own_bug_is_not_taken_for_absence(
    fake: FakeDriver, fake_ctx: CudaContext
) -> None:
    fake.raises["cuMemGetInfo"] = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        fake_ctx.mem_info()


def test_call_that_the_bindings_lack_is_not_supported(fake_ctx: CudaContext) -> None:
    with pytest.raises(errors.DriverError, match=r"cuNoSuchCall\(\): CUDA_ERROR_NOT_SUPPORTED"):
        fake_ctx.call("cuNoSuchCall")


def test_no_device_is_device_not_found(fake: FakeDriver) -> None:
    fake.fail("cuDeviceGet", "INVALID_DEVICE")
    with pytest.raises(errors.DeviceNotFound, match=r"cuDeviceGet\(device 7\)"):
        CudaContext.new(7, driver=fake)
    assert device_count(fake) == 2


def test_every_status_of_the_bindings_has_its_own_name() -> None:
    import cuda.bindings.driver as bindings

    for status in bindings.CUresult:
        if status:
            name, meaning, _ = explain_code(int(status))
            assert meaning
            assert name in (status.name, f"CUDA_ERROR_{int(status)}")
