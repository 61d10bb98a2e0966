"""What a context tells about its device and itself: the readable half of CudaContext."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pyferrum_kv.errors import ArgumentError

if TYPE_CHECKING:
    from pyferrum_kv.driver.api import Api
    from pyferrum_kv.driver.device import Device

_SCHEDULES = {"auto": 0, "spin": 1, "yield": 2, "blocking_sync": 4}  # CU_CTX_SCHED_*


class ContextFacts:
    """Properties, limits and settings; CudaContext adds what makes and what ends."""

    api: Api
    device: Device

    def call(self, name: str, *args: Any, on: str = "") -> Any:
        """Make a driver call with this context current."""
        raise NotImplementedError

    @property
    def ordinal(self) -> int:
        return self.device.ordinal

    @property
    def cu_device(self) -> Any:
        """The driver's CUdevice."""
        return self.device.cu_device

    @property
    def name(self) -> str:
        """The device's name."""
        return self.device.name

    @property
    def uuid(self) -> str:
        return self.device.uuid

    @property
    def compute_capability(self) -> tuple[int, int]:
        return self.device.compute_capability

    @property
    def total_mem(self) -> int:
        """Bytes."""
        return self.device.total_mem

    @property
    def has_async_alloc(self) -> bool:
        return self.device.has_async_alloc

    def attribute(self, attribute: Any) -> int:
        """A device attribute by short name, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", or enum."""
        return self.device.attribute(attribute)

    def mem_info(self) -> tuple[int, int]:
        """(free, total) bytes of the device, all processes counted."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    @property
    def stream_priority_range(self) -> tuple[int, int]:
        """(least, greatest) priority; lower numbers go first."""
        least, greatest = self.call("cuCtxGetStreamPriorityRange")
        return int(least), int(greatest)

    def get_limit(self, limit: Any) -> int:
        """A CUlimit by short name ("PRINTF_FIFO_SIZE") or enum."""
        which = self.api.enum("CUlimit", "CU_LIMIT_", limit)
        return int(self.call("cuCtxGetLimit", which, on=which.name))

    def set_limit(self, limit: Any, value: int) -> None:
        which = self.api.enum("CUlimit", "CU_LIMIT_", limit)
        self.call("cuCtxSetLimit", which, value, on=f"{which.name}, {value}")

    def get_cache_config(self) -> str:
        """ "none", "shared", "l1" or "equal"."""
        config = self.api.raw.CUfunc_cache(self.call("cuCtxGetCacheConfig"))
        return str(config.name.removeprefix("CU_FUNC_CACHE_PREFER_").lower())

    def set_cache_config(self, config: Any) -> None:
        which = self.api.enum("CUfunc_cache", "CU_FUNC_CACHE_PREFER_", config)
        self.call("cuCtxSetCacheConfig", which, on=which.name)

    def set_flags(self, *, schedule: Literal["auto", "spin", "yield", "blocking_sync"]) -> None:
        """How a waiting thread waits: blocking_sync sleeps, spin answers soonest."""
        if schedule not in _SCHEDULES:
            raise ArgumentError(
                f"set_flags: schedule is {schedule!r}; wanted one of {', '.join(_SCHEDULES)}"
            )
        self.call("cuCtxSetFlags", _SCHEDULES[schedule], on=schedule)
