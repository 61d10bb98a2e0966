"""Facts of a device, read from the driver; they need no context."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from uuid import UUID

from pyferrum_kv.driver.api import Api, open_driver


def device_count(driver: Any = None) -> int:
    """How many devices the driver shows; 0 is an answer, an absent driver is DriverNotFound."""
    return int(open_driver(driver).call("cuDeviceGetCount"))


class Device:
    """Device `ordinal` of a driver."""

    def __init__(self, api: Api, ordinal: int) -> None:
        self.api = api
        self.ordinal = ordinal
        self.cu_device = api.call("cuDeviceGet", ordinal, on=f"device {ordinal}")

    def attribute(self, attribute: Any) -> int:
        """A CUdevice_attribute by its short name ("WARP_SIZE") or enum."""
        which = self.api.enum("CUdevice_attribute", "CU_DEVICE_ATTRIBUTE_", attribute)
        on = f"{which.name}, device {self.ordinal}"
        return int(self.api.call("cuDeviceGetAttribute", which, self.cu_device, on=on))

    @cached_property
    def name(self) -> str:
        raw = self.api.call("cuDeviceGetName", 256, self.cu_device)
        return str(bytes(raw).split(b"\0", 1)[0], "utf-8", "replace")

    @cached_property
    def uuid(self) -> str:
        """As nvidia-smi writes it: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx."""
        raw = self.api.call("cuDeviceGetUuid", self.cu_device)
        return f"GPU-{UUID(bytes=bytes(raw.bytes)[:16])}"

    @cached_property
    def compute_capability(self) -> tuple[int, int]:
        return (
            self.attribute("COMPUTE_CAPABILITY_MAJOR"),
            self.attribute("COMPUTE_CAPABILITY_MINOR"),
        )

    @cached_property
    def total_mem(self) -> int:
        """Bytes."""
        return int(self.api.call("cuDeviceTotalMem", self.cu_device))

    @cached_property
    def has_async_alloc(self) -> bool:
        """Whether allocation is stream-ordered, from memory pools."""
        return self.attribute("MEMORY_POOLS_SUPPORTED") != 0

    @cached_property
    def num_sms(self) -> int:
        return self.attribute("MULTIPROCESSOR_COUNT")
