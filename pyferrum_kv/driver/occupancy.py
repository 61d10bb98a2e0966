"""Occupancy: how many CTAs of a function fit, as the driver counts."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from pyferrum_kv.driver.launch_config import LaunchConfig, driver_config

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction


class Occupancy:
    """function.occupancy; `block` is threads of a CTA, `smem` its dynamic shared bytes."""

    def __init__(self, function: CudaFunction) -> None:
        self._function = function

    def max_active_blocks(self, block: int, smem: int = 0) -> int:
        """CTAs that fit on one SM."""
        function = self._function
        on = f"{function.name}, {block} threads, {smem} bytes"
        name = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
        return int(function.context.call(name, function.cu_function, block, smem, on=on))

    def max_cooperative_blocks(self, block: int, smem: int = 0) -> int:
        """CTAs that fit on the whole device at once: the largest cooperative grid."""
        return self.max_active_blocks(block, smem) * self._function.context.device.num_sms

    def available_dynamic_shared_bytes(self, num_blocks: int, block: int) -> int:
        """Dynamic shared memory a CTA may use when `num_blocks` of them shall fit on one SM."""
        function = self._function
        on = f"{function.name}, {num_blocks} CTAs of {block} threads"
        name = "cuOccupancyAvailableDynamicSMemPerBlock"
        return int(function.context.call(name, function.cu_function, num_blocks, block, on=on))

    def max_potential_block_size(self, smem: int = 0, limit: int = 0) -> tuple[int, int]:
        """(CTAs to fill the device, threads of a CTA) for the most warps at once; limit 0: none."""
        function = self._function
        no_callback = function.context.api.raw.CUoccupancyB2DSize(0)
        args = (function.cu_function, no_callback, smem, limit)
        name = "cuOccupancyMaxPotentialBlockSize"
        grid, block = function.context.call(name, *args, on=f"{function.name}, {smem} bytes")
        return int(grid), int(block)

    def max_active_clusters(self, config: LaunchConfig) -> int:
        """Clusters of config.cluster_dim that fit on the device at once."""
        function, api = self._function, self._function.context.api
        made = driver_config(api, config, api.raw.CUstream(0))
        on = f"{function.name}, {config}"
        name = "cuOccupancyMaxActiveClusters"
        return int(function.context.call(name, function.cu_function, made, on=on))

    def max_potential_cluster_size(self, config: LaunchConfig) -> int:
        """The largest cluster, in CTAs, that such a launch could use."""
        function, api = self._function, self._function.context.api
        plain = LaunchConfig(config.grid_dim, config.block_dim, config.shared_mem_bytes)
        made = driver_config(api, plain, api.raw.CUstream(0))
        on = f"{function.name}, CTAs of {prod(config.block_dim)} threads"
        name = "cuOccupancyMaxPotentialClusterSize"
        return int(function.context.call(name, function.cu_function, made, on=on))
