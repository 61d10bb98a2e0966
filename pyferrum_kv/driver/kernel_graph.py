"""KernelGraph: a driver's graph of one kernel node, and its executable form. Owns both.

The node is added by hand, not captured: no stream is needed, and no capture of somebody else's is
disturbed. Its parameter block stays where it is, so an update is one call on what lies ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock
from pyferrum_kv.driver.direct import again_or_raise
from pyferrum_kv.driver.launch_config import LaunchConfig
from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.errors import FerrumError

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction

_UPDATE = "cuGraphExecKernelNodeSetParams"


class KernelGraph:
    """Instantiated once, all or nothing. For one thread at a time, as the driver's graphs are."""

    __slots__ = ("_block", "_context", "_function", "_graph", "_update", "executable")

    def __init__(self, function: CudaFunction, config: LaunchConfig, block: ArgumentBlock) -> None:
        context = self._context = function.context
        self._function, self._block = function, block
        raw = context.api.raw
        params = _node_params(raw, function.cu_function, config, block)
        on = f"{function.name} {config}"
        graph = context.call("cuGraphCreate", 0, on=on)
        self._graph = self._own("graph", "cuGraphDestroy", graph)
        try:
            node = context.call("cuGraphAddKernelNode", graph, None, 0, params, on=on)
            for which, value in _node_attributes(raw, config):
                context.call("cuGraphKernelNodeSetAttribute", node, which, value, on=on)
            ready = context.call("cuGraphInstantiate", graph, 0, on=on)
        except FerrumError:
            context.give_back(self._graph)
            raise
        self.executable = self._own("executable graph", "cuGraphExecDestroy", ready)
        self._update = getattr(raw, _UPDATE), (ready, node, params)

    def _own(self, kind: str, destroy: str, handle: Any) -> Owned:
        what, call, function = f"{kind} {int(handle):#x}", self._context.api.call, self._function

        def release() -> None:
            call(destroy, handle, on=f"{what} of {function.name}")  # after it the module may go

        return Owned(self._context.ledger, handle, what, release)

    def update(self, on: str) -> None:
        """Have later launches read the block as it is now; those under way keep what they had.

        The context is bound first: without one CUDA 13.0 may crash instead of answering.
        """
        self._context.bind_to_thread()
        call, args = self._update
        status = call(*args)[0]
        if status:
            again_or_raise(self._context, lambda: call(*args)[0], (), status, on, name=_UPDATE)

    def close(self) -> None:
        """Destroy both; the driver lets launches under way finish."""
        for owned in (self.executable, self._graph):
            self._context.give_back(owned)


def _node_params(raw: Any, cu_function: Any, config: LaunchConfig, block: ArgumentBlock) -> Any:
    """The driver's CUDA_KERNEL_NODE_PARAMS; it points at the block, which is read at each call."""
    params = raw.CUDA_KERNEL_NODE_PARAMS()
    params.func = cu_function
    params.gridDimX, params.gridDimY, params.gridDimZ = config.grid_dim
    params.blockDimX, params.blockDimY, params.blockDimZ = config.block_dim
    params.sharedMemBytes, params.kernelParams = config.shared_mem_bytes, block.address
    return params


def _node_attributes(raw: Any, config: LaunchConfig) -> list[tuple[Any, Any]]:
    """What is no part of the parameters: (attribute, value), as the driver wants them."""
    kinds, found = raw.CUkernelNodeAttrID, []
    if config.cluster_dim is not None:
        value = raw.CUkernelNodeAttrValue()
        dim = value.clusterDim
        dim.x, dim.y, dim.z = config.cluster_dim
        found.append((kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, value))
    if config.cooperative:
        value = raw.CUkernelNodeAttrValue()
        value.cooperative = 1
        found.append((kinds.CU_LAUNCH_ATTRIBUTE_COOPERATIVE, value))
    return found
