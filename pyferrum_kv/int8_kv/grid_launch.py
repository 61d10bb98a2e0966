"""A launch over a grid of one dimension: checked and prepared once, then replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.launch_config import LaunchConfig
from pyferrum_kv.loader import PtxLoader

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream, PreparedLaunch


class GridLaunch:
    """For one set of slices and sizes; what is never prepared has nothing to do."""

    __slots__ = ("launch",)

    launch: PreparedLaunch | None

    def __init__(self) -> None:
        self.launch = None

    def prepare(
        self, stream: CudaStream, entry: str, grid: int, threads: int, *arguments: Any
    ) -> None:
        """`grid` CTAs of `threads`; a cache holds the launch, so it does not hold its slices."""
        self.launch = (
            PtxLoader.of(stream.context)
            .function(entry)
            .prepare(
                LaunchConfig((grid, 1, 1), (threads, 1, 1)),
                *arguments,
                stream=stream,
                keep_arguments=False,
            )
        )

    def run(self) -> None:
        if self.launch is not None:
            self.launch.launch()
