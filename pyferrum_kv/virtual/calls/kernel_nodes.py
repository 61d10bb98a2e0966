"""Kernel nodes of graphs: made by hand, asked, changed; and graphs and nodes by their handles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.arguments import pack
from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.functions import max_dynamic_shared
from pyferrum_kv.virtual.calls.launches import ID, LaunchCalls, cluster_of
from pyferrum_kv.virtual.capture import Graph, GraphExec, Node
from pyferrum_kv.virtual.launches import KernelLaunch, check_limits
from pyferrum_kv.virtual.status import Refused


class KernelNodeCalls(LaunchCalls):
    """cuGraphAddKernelNode and its kin."""

    @driver_call(1)
    def cuGraphAddKernelNode(
        self, hGraph: Any, dependencies: Any, numDependencies: int, nodeParams: Any
    ) -> Any:
        waits = self._waits(dependencies, numDependencies)
        op = self._kernel_op(self._asked(nodeParams))
        return real.CUgraphNode(self._graph(hGraph).add(self.machine, op, waits).handle)

    @driver_call(1, needs="init")
    def cuGraphKernelNodeGetParams(self, hNode: Any) -> Any:
        asked = self._kernel_of(self._node(hNode))
        params = real.CUDA_KERNEL_NODE_PARAMS()
        params.func = real.CUfunction(asked.function.handle)
        params.gridDimX, params.gridDimY, params.gridDimZ = asked.grid
        params.blockDimX, params.blockDimY, params.blockDimZ = asked.block
        params.sharedMemBytes = asked.dynamic_shared_bytes
        return params

    @driver_call()
    def cuGraphKernelNodeSetAttribute(self, hNode: Any, attr: Any, value: Any) -> None:
        """Cooperative and cluster, as of cuLaunchKernelEx; other attributes say how fast."""
        node = self._node(hNode)
        asked = self._kernel_of(node)
        if int(attr) == int(ID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE):
            asked = replace(asked, cooperative=bool(value.cooperative))
        elif int(attr) == int(ID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION):
            asked = replace(asked, cluster=cluster_of(value))
        self._check(asked)
        node.op = self._kernel_op(asked)

    @driver_call(1)
    def cuGraphKernelNodeGetAttribute(self, hNode: Any, attr: Any) -> Any:
        asked = self._kernel_of(self._node(hNode))
        value = real.CUkernelNodeAttrValue()
        if int(attr) == int(ID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE):
            value.cooperative = int(asked.cooperative)
        elif int(attr) == int(ID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION):
            dim = value.clusterDim
            dim.x, dim.y, dim.z = asked.cluster
        return value

    def _kernel_of(self, node: Node) -> KernelLaunch:
        if not isinstance(node.op.detail, KernelLaunch):
            raise Refused("INVALID_VALUE", "the node is no kernel node")
        return node.op.detail

    def _asked(self, params: Any, old: KernelLaunch | None = None) -> KernelLaunch:
        """The launch of a node; its attributes are no part of `params`, and stay."""
        function = self._function(params.func)
        asked = KernelLaunch(
            function,
            (params.gridDimX, params.gridDimY, params.gridDimZ),
            (params.blockDimX, params.blockDimY, params.blockDimZ),
            params.sharedMemBytes,
            pack(function.kernel.signature, params.kernelParams, int(params.extra or 0)),
            *((old.cooperative, old.cluster) if old else ()),
        )
        self._check(asked)
        return asked

    def _check(self, asked: KernelLaunch) -> None:
        function = asked.function
        attributes = function.module.context.device.attributes
        check_limits(asked, attributes, self._max_threads(function), max_dynamic_shared(function))
        if asked.cooperative:
            self._check_cooperative(asked, function)

    @driver_call()
    def cuGraphExecKernelNodeSetParams(self, hGraphExec: Any, hNode: Any, nodeParams: Any) -> None:
        node = self._own(hGraphExec, hNode)
        node.op = self._kernel_op(self._asked(nodeParams, self._kernel_of(node)))

    # by handle

    def _waits(self, dependencies: Any, count: int) -> list[Node]:
        return [self._node(d) for d in list(dependencies or ())[:count]]

    def _own(self, hGraphExec: Any, hNode: Any) -> Node:
        ready = self._exec(hGraphExec)
        node = ready.node_of.get(int(hNode))
        if node is None:
            raise Refused("INVALID_VALUE", "the node is not of the graph that was instantiated")
        return node

    def _graph(self, handle: Any) -> Graph:
        return self.machine.lookup(handle, Graph, wrong="INVALID_VALUE")

    def _node(self, handle: Any) -> Node:
        return self.machine.lookup(handle, Node, wrong="INVALID_VALUE")

    def _exec(self, handle: Any) -> GraphExec:
        return self.machine.lookup(handle, GraphExec, wrong="INVALID_VALUE")
