"""CudaGraph: work captured from a stream, replayed as one launch.

    with stream.capture() as graph:
        prepared.launch()
    graph.launch()

A graph keeps alive what was used while it was captured: functions, slices, pinned memory. Nothing
of the context is freed or unloaded while a capture runs; close() in a capture takes effect after
it. The driver's graphs are not safe for concurrent use, so each has a lock.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.binding import CROWD, THREAD
from pyferrum_kv.driver.direct import again_or_raise
from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.errors import ArgumentError, CaptureError, ClosedError, FerrumError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext
    from pyferrum_kv.driver.stream import CudaStream

_MODES = ("global", "thread_local", "relaxed")  # CU_STREAM_CAPTURE_MODE_*


class CudaGraph:
    """A captured graph and its executable form. Owns both."""

    def __init__(self, context: CudaContext, stream: CudaStream) -> None:
        """Not called directly: `with stream.capture() as graph`."""
        self.context = context
        self._stream = stream
        self._kept: list[object] = []
        self._graph: Owned | None = None
        self._exec: Owned | None = None
        self._lock = threading.Lock()
        self._closed = False

    def _own(self, kind: str, destroy: str, handle: Any) -> Owned:
        what, call = f"{kind} {int(handle):#x}", self.context.api.call
        return Owned(self.context.ledger, handle, what, lambda: call(destroy, handle, on=what))

    def adopt(self, cu_graph: Any, kept: list[object]) -> None:
        """Take the captured graph over and instantiate it: all or nothing."""
        graph = self._own("graph", "cuGraphDestroy", cu_graph)
        try:
            ready = self.context.call("cuGraphInstantiate", cu_graph, 0, on=graph_text(cu_graph))
        except FerrumError:
            self.context.give_back(graph)
            raise
        self._kept = kept
        self._graph = graph
        self._exec = self._own("executable graph", "cuGraphExecDestroy", ready)

    def _ready(self, operation: str) -> Any:
        if self._exec is None or self._exec.is_closed:
            if self._closed or self._exec is not None:
                raise ClosedError(f"{operation}: the graph is closed")
            raise CaptureError(
                f"{operation}: the capture has not ended; leave its with block first"
            )
        return self._exec.value

    @property
    def handle(self) -> int:
        """The address of the CUgraphExec."""
        return int(self._ready("handle"))

    def launch(self, stream: CudaStream | None = None) -> None:
        """Replay on `stream`, by default the one it was captured on; asynchronous."""
        context, stream = self.context, self._stream if stream is None else stream
        if context.ledger.attention:
            context.attend("launch of a graph")
        if not CROWD.is_one and THREAD.bound is not context.ledger:
            context.bind_to_thread()
        with self._lock:
            call, args = context.api.raw.cuGraphLaunch, (self._ready("launch"), stream.cu_stream)
            status = call(*args)[0]
            if status:
                on = f"{self!r}, {stream!r}"
                again_or_raise(
                    context, lambda: call(*args)[0], (), status, on, name="cuGraphLaunch"
                )

    def upload(self, stream: CudaStream | None = None) -> None:
        """Move the graph to the device ahead of its first launch."""
        stream = stream or self._stream
        with self._lock:
            on = f"{self!r}, {stream!r}"
            self.context.call("cuGraphUpload", self._ready("upload"), stream.cu_stream, on=on)

    def update(self, other: CudaGraph) -> None:
        """Take over the arguments of `other`, a graph of the same shape; the next launch uses them.

        What the graph kept alive before is let go: its launches so far must have passed.
        """
        other._ready("update")
        assert other._graph is not None  # made together with what is ready
        with self._lock:
            args = (self._ready("update"), other._graph.value)
            self.context.call("cuGraphExecUpdate", *args, on=f"{self!r}, {other!r}")
            self._kept = list(other._kept)

    def close(self) -> None:
        """Destroy the graph, and let go of what it kept alive."""
        self._closed = True
        with self._lock:
            for owned in (self._exec, self._graph):
                if owned is not None:
                    self.context.give_back(owned)
            self._kept = []

    def __enter__(self) -> CudaGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return "<CudaGraph closed>"
        return (
            "<CudaGraph capturing>"
            if self._graph is None
            else f"<CudaGraph {graph_text(self._graph.value)}>"
        )


def graph_text(cu_graph: Any) -> str:
    """How messages name a graph."""
    return f"graph {int(cu_graph):#x}"


class Capture:
    """stream.capture(): a with block whose work becomes a graph instead of running."""

    def __init__(self, stream: CudaStream, mode: str) -> None:
        if mode not in _MODES:
            raise ArgumentError(f"capture: mode is {mode!r}; wanted one of {', '.join(_MODES)}")
        self._stream, self._mode = stream, mode
        self._graph = CudaGraph(stream.context, stream)
        self._kept: list[object] = []

    def __enter__(self) -> CudaGraph:
        context, stream = self._stream.context, self._stream
        mode = context.api.enum("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_", self._mode)
        context.call("cuStreamBeginCapture", stream.cu_stream, mode, on=f"{stream!r}, {self._mode}")
        self._kept.append(stream)
        context.ledger.captures.append(self._kept)
        context.ledger.attention = True
        return self._graph

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        context, captures = self._stream.context, self._stream.context.ledger.captures
        try:
            cu_graph = context.call(
                "cuStreamEndCapture", self._stream.cu_stream, on=f"{self._stream!r}"
            )
        except FerrumError:
            if error is None:
                raise
            return  # the body's own error says more than the capture that it broke
        finally:
            captures[:] = [kept for kept in captures if kept is not self._kept]
        if error is not None:
            if int(cu_graph):
                context.call("cuGraphDestroy", cu_graph, on=graph_text(cu_graph))
            return
        if not int(cu_graph):
            raise CaptureError(f"capture: {self._stream!r} captured nothing")
        self._graph.adopt(cu_graph, self._kept)
