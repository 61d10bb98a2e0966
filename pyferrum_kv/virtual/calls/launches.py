"""Launching kernels."""

from __future__ import annotations

from math import prod
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.arguments import pack
from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.functions import FunctionCalls, max_dynamic_shared
from pyferrum_kv.virtual.launches import (
    Dim,
    KernelLaunch,
    check_limits,
    host_visible_arguments,
    perform,
)
from pyferrum_kv.virtual.modules import Function
from pyferrum_kv.virtual.objects import Stream
from pyferrum_kv.virtual.order import Op
from pyferrum_kv.virtual.status import Refused

ID = real.CUlaunchAttributeID


class LaunchCalls(FunctionCalls):
    """cuLaunchKernel, cuLaunchKernelEx, cuLaunchCooperativeKernel."""

    @driver_call()
    def cuLaunchKernel(
        self,
        f: Any,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: Any,
        kernelParams: Any,
        extra: int,
    ) -> None:
        grid, block = (gridDimX, gridDimY, gridDimZ), (blockDimX, blockDimY, blockDimZ)
        function = self._function(f)
        params = pack(function.kernel.signature, kernelParams, extra)
        asked = KernelLaunch(function, grid, block, sharedMemBytes, params)
        self._launch(asked, self._stream(hStream))

    @driver_call()
    def cuLaunchKernelEx(self, config: Any, f: Any, kernelParams: Any, extra: int) -> None:
        """Cluster dimensions are checked, and then CTAs run as without; cooperative is checked too.

        Programmatic dependent launch may start a kernel early: here it never does. Other
        attributes only say how fast.
        """
        if config is None:
            raise Refused("INVALID_VALUE", "config is None")
        cooperative, cluster = _attributes(config)
        function = self._function(f)
        asked = KernelLaunch(
            function,
            (config.gridDimX, config.gridDimY, config.gridDimZ),
            (config.blockDimX, config.blockDimY, config.blockDimZ),
            config.sharedMemBytes,
            pack(function.kernel.signature, kernelParams, extra),
            cooperative,
            cluster,
        )
        self._launch(asked, self._stream(config.hStream))

    @driver_call()
    def cuLaunchCooperativeKernel(
        self,
        f: Any,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: Any,
        kernelParams: Any,
    ) -> None:
        grid, block = (gridDimX, gridDimY, gridDimZ), (blockDimX, blockDimY, blockDimZ)
        function = self._function(f)
        params = pack(function.kernel.signature, kernelParams, 0)
        asked = KernelLaunch(function, grid, block, sharedMemBytes, params, cooperative=True)
        self._launch(asked, self._stream(hStream))

    def _launch(self, asked: KernelLaunch, stream: Stream) -> None:
        function = asked.function
        if function.module.context is not stream.context:
            raise Refused("INVALID_HANDLE", f"{function.name} and the stream are of two contexts")
        attributes = stream.context.device.attributes
        check_limits(asked, attributes, self._max_threads(function), max_dynamic_shared(function))
        if asked.cooperative:
            self._check_cooperative(asked, function)
        work = self.submit(stream, self._kernel_op(asked))
        if work is not None and not work.done:
            for taken in host_visible_arguments(self.machine, asked):
                self.machine.will_read_host(work, taken.address, taken.num_bytes)

    def _kernel_op(self, asked: KernelLaunch) -> Op:
        machine = self.machine
        return Op("kernel", asked.function.name, lambda: perform(machine, asked), asked)

    def _check_cooperative(self, asked: KernelLaunch, function: Function) -> None:
        active = self._active(function, prod(asked.block), asked.dynamic_shared_bytes)
        attributes = function.module.context.device.attributes
        room = active * attributes["MULTIPROCESSOR_COUNT"]
        if prod(asked.grid) > room:
            raise Refused(
                "COOPERATIVE_LAUNCH_TOO_LARGE",
                f"{function.name}: {prod(asked.grid)} CTAs; {room} fit on the device at once",
            )


def _attributes(config: Any) -> tuple[bool, Dim]:
    cooperative, cluster = False, (1, 1, 1)
    for attribute in list(config.attrs or ())[: config.numAttrs]:
        if attribute.id == ID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
            cooperative = bool(attribute.value.cooperative)
        elif attribute.id == ID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
            cluster = cluster_of(attribute.value)
    return cooperative, cluster


def cluster_of(value: Any) -> Dim:
    """The cluster of a launch attribute's value."""
    dim = value.clusterDim
    cluster = (dim.x, dim.y, dim.z)
    if min(cluster) < 1 or prod(cluster) > 8:
        raise Refused("INVALID_CLUSTER_SIZE", f"cluster {cluster}; wanted 1 to 8 CTAs")
    return cluster
