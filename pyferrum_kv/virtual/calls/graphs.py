"""Graphs: by capture, by hand for kernels and empty nodes, and executable ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.kernel_nodes import KernelNodeCalls
from pyferrum_kv.virtual.capture import Capture, Graph, GraphExec, Node
from pyferrum_kv.virtual.objects import Stream
from pyferrum_kv.virtual.order import Op, nothing
from pyferrum_kv.virtual.status import Refused

STATUS = real.CUstreamCaptureStatus
NODE_TYPE = real.CUgraphNodeType
TYPES = {
    "kernel": NODE_TYPE.CU_GRAPH_NODE_TYPE_KERNEL,
    "memcpy": NODE_TYPE.CU_GRAPH_NODE_TYPE_MEMCPY,
    "memset": NODE_TYPE.CU_GRAPH_NODE_TYPE_MEMSET,
    "host": NODE_TYPE.CU_GRAPH_NODE_TYPE_HOST,
    "alloc": NODE_TYPE.CU_GRAPH_NODE_TYPE_MEM_ALLOC,
    "free": NODE_TYPE.CU_GRAPH_NODE_TYPE_MEM_FREE,
    "empty": NODE_TYPE.CU_GRAPH_NODE_TYPE_EMPTY,
    "event": NODE_TYPE.CU_GRAPH_NODE_TYPE_EMPTY,
}


class GraphCalls(KernelNodeCalls):
    """cuStreamBeginCapture and its kin, cuGraph*."""

    @driver_call()
    def cuStreamBeginCapture(self, hStream: Any, mode: Any) -> None:
        stream = self._stream(hStream)
        if stream is stream.context.legacy:
            raise Refused("STREAM_CAPTURE_UNSUPPORTED", "the legacy default stream cannot capture")
        if stream.capture:
            stream.capture.invalid = True
            raise Refused("ILLEGAL_STATE", "the stream is capturing already")
        graph = Graph(self.machine.new_handle())
        number, thread = self.machine.new_handle(), self.machine.thread_number()
        capture = Capture(number, graph, int(mode), thread, stream, {stream: []})
        stream.capture = capture
        self.machine.captures = [*self._captures(), capture]

    @driver_call(1)
    def cuStreamEndCapture(self, hStream: Any) -> Any:
        stream = self._stream(hStream)
        capture = stream.capture
        if capture is None:
            raise Refused("ILLEGAL_STATE", "the stream is not capturing")
        if capture.origin is not stream:
            capture.invalid = True
            raise Refused("STREAM_CAPTURE_UNMATCHED", "capture began in another stream")
        if capture.mode != 2 and capture.thread != self.machine.thread_number():
            raise Refused("STREAM_CAPTURE_WRONG_THREAD", "capture began in another thread")
        graph = capture.end()
        return real.CUgraph(self.machine.register(graph))

    @driver_call(1)
    def cuStreamIsCapturing(self, hStream: Any) -> Any:
        stream = self._stream(hStream)
        if stream is stream.context.legacy and any(
            c.mode == 0 and c.origin.blocking for c in self._captures()
        ):
            raise Refused("STREAM_CAPTURE_IMPLICIT", "a blocking stream is capturing")
        return _status(stream)

    def _capture_info(self, hStream: Any) -> tuple[Any, Any, Any, list[Any], int]:
        stream = self._stream(hStream)
        capture = stream.capture
        if capture is None:
            return _status(stream), real.cuuint64_t(0), real.CUgraph(0), [], 0
        tail = [real.CUgraphNode(n.handle) for n in capture.tails[stream]]
        self.machine.register(capture.graph)
        graph = real.CUgraph(capture.graph.handle)
        return _status(stream), real.cuuint64_t(capture.number), graph, tail, len(tail)

    @driver_call(1, needs="init")
    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> Any:
        old = self.machine.thread_capture_mode
        self.machine.thread_capture_mode = int(mode)
        return real.CUstreamCaptureMode(old)

    # graphs and nodes

    @driver_call(1, needs="init")
    def cuGraphCreate(self, flags: int) -> Any:
        return real.CUgraph(self.machine.register(Graph(self.machine.new_handle())))

    @driver_call(needs="init")
    def cuGraphDestroy(self, hGraph: Any) -> None:
        graph = self._graph(hGraph)
        for node in graph.nodes:
            self.machine.handles.pop(node.handle, None)
        del self.machine.handles[graph.handle]

    @driver_call(1, needs="init")
    def cuGraphClone(self, originalGraph: Any) -> Any:
        twin, _ = self._graph(originalGraph).clone(self.machine)
        return real.CUgraph(self.machine.register(twin))

    @driver_call(2, needs="init")
    def cuGraphGetNodes(self, hGraph: Any, numNodes: int = 0) -> tuple[list[Any], int]:
        return _listed(self._graph(hGraph).nodes, numNodes)

    @driver_call(2, needs="init")
    def cuGraphGetRootNodes(self, hGraph: Any, numRootNodes: int = 0) -> tuple[list[Any], int]:
        return _listed([n for n in self._graph(hGraph).nodes if not n.waits], numRootNodes)

    @driver_call(1, needs="init")
    def cuGraphNodeGetType(self, hNode: Any) -> Any:
        return TYPES[self._node(hNode).op.kind]

    @driver_call(1)
    def cuGraphAddEmptyNode(self, hGraph: Any, dependencies: Any, numDependencies: int) -> Any:
        waits = self._waits(dependencies, numDependencies)
        node = self._graph(hGraph).add(self.machine, Op("empty", "empty node", nothing), waits)
        return real.CUgraphNode(node.handle)

    # executable graphs

    @driver_call(1)
    def cuGraphInstantiate(self, hGraph: Any, flags: int) -> Any:
        twin, node_of = self._graph(hGraph).clone(self.machine)
        ready = GraphExec(self.machine.new_handle(), twin, node_of)
        ready.split(self.machine)
        return real.CUgraphExec(self.machine.register(ready))

    @driver_call(needs="init")
    def cuGraphExecDestroy(self, hGraphExec: Any) -> None:
        ready = self._exec(hGraphExec)
        for node in ready.graph.nodes:
            self.machine.handles.pop(node.handle, None)
        del self.machine.handles[ready.handle]

    @driver_call()
    def cuGraphUpload(self, hGraphExec: Any, hStream: Any) -> None:
        self._exec(hGraphExec), self._stream(hStream)

    @driver_call()
    def cuGraphLaunch(self, hGraphExec: Any, hStream: Any) -> None:
        ready, stream = self._exec(hGraphExec), self._stream(hStream)
        if stream.capture:
            stream.capture.invalid = True
            raise Refused("STREAM_CAPTURE_UNSUPPORTED", "graph launches cannot be captured")
        after = self._legacy_waits(stream)
        ready.launch(self.machine, stream.lane, stream.context, after)

    @driver_call(1)
    def cuGraphExecUpdate(self, hGraphExec: Any, hGraph: Any) -> Any:
        """Take over another graph's operations when its shape and its functions are the same."""
        ready, graph = self._exec(hGraphExec), self._graph(hGraph)
        reason, culprit = _difference(ready.graph, graph)
        if reason != real.CUgraphExecUpdateResult.CU_GRAPH_EXEC_UPDATE_SUCCESS:
            at = f" at node {culprit.handle:#x}" if culprit else ""
            raise Refused("GRAPH_EXEC_UPDATE_FAILURE", f"{reason.name}{at}")
        for mine, other in zip(ready.graph.nodes, graph.nodes, strict=True):
            mine.op = other.op
        ready.node_of.update(zip((n.handle for n in graph.nodes), ready.graph.nodes, strict=True))
        result = real.CUgraphExecUpdateResultInfo()
        result.result = reason
        return result

    @driver_call()
    def cuGraphNodeSetEnabled(self, hGraphExec: Any, hNode: Any, isEnabled: int) -> None:
        self._own(hGraphExec, hNode).enabled = bool(isEnabled)

    @driver_call(1)
    def cuGraphNodeGetEnabled(self, hGraphExec: Any, hNode: Any) -> int:
        return int(self._own(hGraphExec, hNode).enabled)

    def _edges(self, hGraph: Any) -> list[tuple[Any, Any]]:
        return [
            (real.CUgraphNode(a.handle), real.CUgraphNode(b.handle))
            for a, b in self._graph(hGraph).edges()
        ]

    def _waits_of(self, hNode: Any) -> list[Any]:
        return [real.CUgraphNode(n.handle) for n in self._node(hNode).waits]


def _status(stream: Stream) -> Any:
    if stream.capture is None:
        return STATUS.CU_STREAM_CAPTURE_STATUS_NONE
    if stream.capture.invalid:
        return STATUS.CU_STREAM_CAPTURE_STATUS_INVALIDATED
    return STATUS.CU_STREAM_CAPTURE_STATUS_ACTIVE


def _listed(nodes: Sequence[Node], room: int) -> tuple[list[Any], int]:
    """As the bindings answer: with no room only the count, else that many nodes."""
    if room == 0:
        return [], len(nodes)
    chosen = nodes[:room]
    return [real.CUgraphNode(n.handle) for n in chosen], len(chosen)


def _difference(old: Graph, new: Graph) -> tuple[Any, Node | None]:
    results = real.CUgraphExecUpdateResult
    place = {n.handle: i for g in (old, new) for i, n in enumerate(g.nodes)}
    if len(old.nodes) != len(new.nodes):
        return results.CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, None
    for a, b in zip(old.nodes, new.nodes, strict=True):
        if [place[w.handle] for w in a.waits] != [place[w.handle] for w in b.waits]:
            return results.CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, b
        if a.op.kind != b.op.kind:
            return results.CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, b
    return results.CU_GRAPH_EXEC_UPDATE_SUCCESS, None
