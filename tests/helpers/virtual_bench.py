"""What the tests of the virtual device share."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual import VirtualDriver

R = real.CUresult


class Bench:
    """A VirtualDriver with its primary context current, and calls that must succeed."""

    def __init__(self, **options: Any) -> None:
        self.driver = VirtualDriver(**options)
        self.do("cuInit", 0)
        self.device = self.do("cuDeviceGet", 0)
        self.context = self.do("cuDevicePrimaryCtxRetain", self.device)
        self.do("cuCtxSetCurrent", self.context)

    def do(self, call: str, *arguments: Any) -> Any:
        """Call and insist on success."""
        status, *values = getattr(self.driver, call)(*arguments)
        assert status == R.CUDA_SUCCESS, f"{call}: {status!r} {self.driver.last_error}"
        return values[0] if len(values) == 1 else tuple(values) or None

    def status(self, call: str, *arguments: Any) -> Any:
        """Call and return the status only."""
        return getattr(self.driver, call)(*arguments)[0]

    def stream(self, flags: int = 1) -> Any:
        return self.do("cuStreamCreate", flags)

    def filled(self, num_bytes: int, value: int = 0) -> Any:
        """Device memory, initialised and synchronised."""
        pointer = self.do("cuMemAlloc", num_bytes)
        self.do("cuMemsetD8", pointer, value, num_bytes)
        self.do("cuStreamSynchronize", 0)
        return pointer

    def bytes_at(self, pointer: Any, num_bytes: int) -> bytes:
        host = bytearray(num_bytes)
        self.do("cuMemcpyDtoH", host, pointer, num_bytes)
        return bytes(host)

    def function(self, ptx: str, entry: str) -> Any:
        """An entry of a module that is loaded here."""
        module = self.do("cuModuleLoadData", ptx.encode() + b"\0")
        return self.do("cuModuleGetFunction", module, entry.encode())

    def launch(
        self, found: Any, values: Any, types: Any, *, block: int = 1, stream: Any = 0, grid: int = 1
    ) -> Any:
        """Launch with (values, types); the status."""
        sizes = (grid, 1, 1, block, 1, 1, 0)
        return self.status("cuLaunchKernel", found, *sizes, stream, (values, types), 0)
