"""Graphs: nodes and what each waits for; a capture fills one; an executable one can be launched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pyferrum_kv.virtual.machine import Machine
from pyferrum_kv.virtual.objects import Allocation, Context, Stream
from pyferrum_kv.virtual.order import Lane, Op, Work, nothing
from pyferrum_kv.virtual.status import Refused

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2  # CUstreamCaptureMode


@dataclass(eq=False)
class Node:
    """An operation of a graph, after `waits`."""

    handle: int
    op: Op
    waits: list[Node]
    enabled: bool = True


@dataclass(eq=False)
class Graph:
    handle: int
    nodes: list[Node] = field(default_factory=list)
    allocations: list[Allocation] = field(default_factory=list)  # made by its alloc nodes

    def add(self, machine: Machine, op: Op, waits: Iterable[Node]) -> Node:
        node = Node(machine.new_handle(), op, list(waits))
        machine.register(node)
        self.nodes.append(node)
        return node

    def clone(self, machine: Machine) -> tuple[Graph, dict[int, Node]]:
        """A copy with nodes of its own, and original handle -> copied node."""
        twin = Graph(machine.new_handle(), allocations=self.allocations)
        of: dict[int, Node] = {}
        for node in self.nodes:
            of[node.handle] = twin.add(machine, node.op, [of[w.handle] for w in node.waits])
        return twin, of

    def edges(self) -> list[tuple[Node, Node]]:
        return [(before, node) for node in self.nodes for before in node.waits]


@dataclass(eq=False)
class CapturedEvent:
    """Where in a capture an event was recorded."""

    capture: Capture
    nodes: list[Node]


@dataclass(eq=False)
class Capture:
    """A capture under way: what its streams do becomes nodes of `graph`."""

    number: int
    graph: Graph
    mode: int
    thread: int
    origin: Stream
    tails: dict[Stream, list[Node]] = field(default_factory=dict)
    invalid: bool = False
    active: bool = True

    def add(self, machine: Machine, stream: Stream, op: Op) -> Node:
        """The next operation of a stream that takes part."""
        if self.invalid:
            raise Refused("STREAM_CAPTURE_INVALIDATED", "an earlier call ended this capture")
        node = self.graph.add(machine, op, self.tails[stream])
        self.tails[stream] = [node]
        return node

    def join(self, stream: Stream, nodes: list[Node]) -> None:
        """Make a stream wait for nodes; one that was not capturing takes part from here on."""
        if stream.capture is None:
            if stream is stream.context.legacy:
                self.invalid = True
                raise Refused("STREAM_CAPTURE_IMPLICIT", "the legacy default stream cannot join")
            stream.capture, self.tails[stream] = self, list(nodes)
        elif stream.capture is self:
            tail = self.tails[stream]
            tail += [node for node in nodes if node not in tail]
        else:
            self.invalid = stream.capture.invalid = True
            raise Refused("STREAM_CAPTURE_MERGE", "the event belongs to another capture")

    def end(self) -> Graph:
        """Leave the capture; refused when something was lost on the way."""
        self.active = False
        for stream in self.tails:
            stream.capture = None
        if self.invalid:
            raise Refused("STREAM_CAPTURE_INVALIDATED", "an earlier call ended this capture")
        joined, queue = set(), list(self.tails[self.origin])
        while queue:
            node = queue.pop()
            if node.handle not in joined:
                joined.add(node.handle)
                queue += node.waits
        for stream, tail in self.tails.items():
            if any(node.handle not in joined for node in tail):
                raise Refused(
                    "STREAM_CAPTURE_UNJOINED",
                    f"stream {stream.handle:#x} has work that the first stream does not wait for",
                )
        return self.graph


@dataclass(eq=False)
class GraphExec:
    """A graph made ready: its operations in order, and the branch that each belongs to."""

    handle: int
    graph: Graph  # its own copy
    node_of: dict[int, Node]  # handle of the original's node -> own node
    branch_of: dict[int, int] = field(default_factory=dict)
    lanes: list[Lane] = field(default_factory=list)
    last: Work | None = None

    def split(self, machine: Machine) -> None:
        """Give each node a branch: a chain in which each node waits for the one before."""
        tails: list[Node] = []
        for node in self.graph.nodes:
            branch = next((i for i, t in enumerate(tails) if t in node.waits), len(tails))
            tails[branch : branch + 1] = [node]
            self.branch_of[node.handle] = branch
        self.lanes = [machine.order.new_lane() for _ in tails]

    def launch(self, machine: Machine, lane: Lane, context: Context, after: list[Work]) -> Work:
        """Submit all nodes after what `lane` holds; a graph never overlaps itself."""
        order, works = machine.order, dict[int, Work]()
        start = Op("empty", "graph begins", nothing)
        begin = order.submit(lane, start, context, [*after, self.last])
        for node in self.graph.nodes:
            waits = [works[w.handle] for w in node.waits] or [begin]
            op = node.op if node.enabled else Op("empty", "disabled node", nothing)
            branch = self.lanes[self.branch_of[node.handle]]
            works[node.handle] = order.submit(branch, op, context, waits)
        end = Op("empty", "graph ends", nothing)
        self.last = order.submit(lane, end, context, list(works.values()))
        return self.last
