"""The calls whose argument lists differ between the bindings: one class for 12.x, one for 13.x."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.context import ContextCalls
from pyferrum_kv.virtual.calls.copies import CopyCalls
from pyferrum_kv.virtual.calls.device import DeviceCalls
from pyferrum_kv.virtual.calls.events import EventCalls
from pyferrum_kv.virtual.calls.graphs import GraphCalls
from pyferrum_kv.virtual.calls.pools import PoolCalls
from pyferrum_kv.virtual.calls.streams import StreamCalls
from pyferrum_kv.virtual.order import Op, nothing

BINDINGS_12 = hasattr(real, "cuCtxCreate_v4")


class CommonCalls(
    DeviceCalls, ContextCalls, PoolCalls, CopyCalls, StreamCalls, EventCalls, GraphCalls
):
    """The calls that are the same in both."""

    def _prefetch(self, devPtr: Any, count: int, hStream: Any) -> None:
        self._range(devPtr, count)
        self.submit(self._stream(hStream), Op("empty", "cuMemPrefetchAsync", nothing))

    def _no_edge_data(self, count: int) -> list[Any]:
        return [real.CUgraphEdgeData() for _ in range(count)]


class Calls12(CommonCalls):
    """cuda.bindings 12.x."""

    @driver_call(1, needs="init")
    def cuCtxCreate(self, flags: int, dev: Any) -> Any:
        return self._create(flags, dev)

    @driver_call(1, needs="init")
    def cuCtxCreate_v4(self, ctxCreateParams: Any, flags: int, dev: Any) -> Any:
        return self._create(flags, dev)

    @driver_call(1, needs="init")
    def cuDeviceGetUuid_v2(self, dev: Any) -> Any:
        return self._uuid(dev)

    @driver_call(1)
    def cuEventElapsedTime_v2(self, hStart: Any, hEnd: Any) -> float:
        return self._elapsed(hStart, hEnd)

    @driver_call()
    def cuMemPrefetchAsync(self, devPtr: Any, count: int, dstDevice: Any, hStream: Any) -> None:
        self._prefetch(devPtr, count, hStream)

    @driver_call()
    def cuMemPrefetchAsync_v2(
        self, devPtr: Any, count: int, location: Any, flags: int, hStream: Any
    ) -> None:
        self._prefetch(devPtr, count, hStream)

    @driver_call()
    def cuMemAdvise(self, devPtr: Any, count: int, advice: Any, device: Any) -> None:
        self._range(devPtr, count)

    @driver_call()
    def cuMemAdvise_v2(self, devPtr: Any, count: int, advice: Any, location: Any) -> None:
        self._range(devPtr, count)

    @driver_call(5)
    def cuStreamGetCaptureInfo(self, hStream: Any) -> Any:
        return self._capture_info(hStream)

    @driver_call(6)
    def cuStreamGetCaptureInfo_v3(self, hStream: Any) -> Any:
        status, number, graph, nodes, count = self._capture_info(hStream)
        return status, number, graph, nodes, self._no_edge_data(count), count

    @driver_call(3, needs="init")
    def cuGraphGetEdges(self, hGraph: Any, numEdges: int = 0) -> Any:
        edges = self._edges(hGraph)
        chosen = edges[:numEdges]
        return [a for a, _ in chosen], [b for _, b in chosen], len(chosen or edges)

    @driver_call(2, needs="init")
    def cuGraphNodeGetDependencies(self, hNode: Any, numDependencies: int = 0) -> Any:
        waits = self._waits_of(hNode)
        chosen = waits[:numDependencies]
        return chosen, len(chosen or waits)


class Calls13(CommonCalls):
    """cuda.bindings 13.x."""

    @driver_call(1, needs="init")
    def cuCtxCreate(self, ctxCreateParams: Any, flags: int, dev: Any) -> Any:
        return self._create(flags, dev)

    @driver_call()
    def cuMemPrefetchAsync(
        self, devPtr: Any, count: int, location: Any, flags: int, hStream: Any
    ) -> None:
        self._prefetch(devPtr, count, hStream)

    @driver_call()
    def cuMemAdvise(self, devPtr: Any, count: int, advice: Any, location: Any) -> None:
        self._range(devPtr, count)

    @driver_call(6)
    def cuStreamGetCaptureInfo(self, hStream: Any) -> Any:
        status, number, graph, nodes, count = self._capture_info(hStream)
        return status, number, graph, nodes, self._no_edge_data(count), count

    @driver_call(4, needs="init")
    def cuGraphGetEdges(self, hGraph: Any, numEdges: int = 0) -> Any:
        edges = self._edges(hGraph)
        chosen = edges[:numEdges]
        data = self._no_edge_data(len(chosen))
        return [a for a, _ in chosen], [b for _, b in chosen], data, len(chosen or edges)

    @driver_call(3, needs="init")
    def cuGraphNodeGetDependencies(self, hNode: Any, numDependencies: int = 0) -> Any:
        waits = self._waits_of(hNode)
        chosen = waits[:numDependencies]
        return chosen, self._no_edge_data(len(chosen)), len(chosen or waits)
