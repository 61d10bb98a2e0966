"""FrozenLaunch: a prepared launch as a graph of one kernel, which the driver launches for less.

    frozen = prepared.freeze()
    frozen.launch()

cuGraphLaunch has two arguments where a launch has a configuration and a block to read, and the
driver has done at freeze() what it does at each cuLaunchKernel. A change of an argument is a call
of its own, so what changes at every launch is better left prepared.

An executable graph is not safe for concurrent use: its launches, changes and close() take turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock, position_of
from pyferrum_kv.driver.binding import CROWD, THREAD
from pyferrum_kv.driver.direct import Packed, again_or_raise
from pyferrum_kv.driver.kernel_graph import KernelGraph
from pyferrum_kv.driver.launch_config import LaunchConfig, driver_config
from pyferrum_kv.driver.lifetime import Ledger
from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.driver.replay import Raised, Replay
from pyferrum_kv.errors import ArgumentError, CaptureError, ClosedError

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction
    from pyferrum_kv.driver.stream import CudaStream


class FrozenLaunch(Replay):
    """A launch made a graph, by prepared.freeze(). Owns the graph; keeps its arguments alive.

    Two launches of one FrozenLaunch never run side by side: the driver orders them, on whichever
    streams they are. clone() gives a second stream one of its own. Cluster and cooperative launches
    stay what they are. Safe to use from several threads, as a PreparedLaunch is.
    """

    __slots__ = ("_call", "_graph", "_other", "_pack", "_packed")

    def __init__(
        self,
        function: CudaFunction,
        config: LaunchConfig,
        block: ArgumentBlock,
        stream: CudaStream,
        keep_arguments: bool = True,
    ) -> None:
        """Not called directly: prepared.freeze(). `block` must be nobody else's."""
        super().__init__(function, config, block, stream, keep_arguments)
        if config.programmatic:
            raise ArgumentError(
                f"freeze of {self._label}: programmatic is True; a graph of one kernel has nothing"
                " ahead of it to overlap with: launch the PreparedLaunch, or configure(...) one"
                " without it"
            )
        cu_stream = stream.cu_stream  # ClosedError after its close()
        self._graph = KernelGraph(function, config, block)
        how = self._api.graph_launch
        self._call, self._pack = how.call, how.pack
        self._packed: Packed | None = self._pack(self._graph.executable.value, cu_stream)
        self._other: tuple[CudaStream, Packed] | None = None  # where launches went last, elsewhere
        self._watch_all()

    @property
    def is_closed(self) -> bool:
        return self._packed is None

    @property
    def handle(self) -> int:
        """The address of the CUgraphExec."""
        self._check_open("handle")
        return int(self._graph.executable.value)

    # launching

    def launch(self, stream: CudaStream | None = None) -> None:
        """Launch on `stream`, by default the one it was frozen for; asynchronous."""
        if self._gate.attention and self._captured(stream):
            return
        if not CROWD.is_one and THREAD.bound is not self._ledger:
            self._context.bind_to_thread()
        turn = self._turn
        try:
            turn.pop()
        except IndexError:
            turn.wait()
        try:
            packed = self._packed
            if packed is None or stream is not None:
                packed = self._towards(stream or self._stream)
            status = self._call(*packed)
            if status:
                self._again_or_raise(packed, status)
        finally:
            turn.append(None)
        self._ledger.last_launch = self._label

    __call__ = launch

    def launch_with(
        self, changes: Iterable[tuple[int | str, Any]], stream: CudaStream | None = None
    ) -> None:
        """Change arguments and launch, as one step that no other thread comes between."""
        if self._gate.attention and self._captured(stream, changes):
            return
        if not CROWD.is_one and THREAD.bound is not self._ledger:
            self._context.bind_to_thread()
        turn = self._turn
        try:
            turn.pop()
        except IndexError:
            turn.wait()
        try:
            packed = self._towards(stream or self._stream)
            self._change(changes)
            status = self._call(*packed)
            if status:
                self._again_or_raise(packed, status)
        finally:
            turn.append(None)
        self._ledger.last_launch = self._label

    def upload(self, stream: CudaStream | None = None) -> None:
        """Move the graph to the device ahead of its first launch."""
        with self._turn:
            self._check_open("upload")
            self._check_stream(stream := stream or self._stream)
            args = self._graph.executable.value, stream.cu_stream
            self._context.call("cuGraphUpload", *args, on=self._label)

    def _towards(self, stream: CudaStream) -> Packed:
        """What call() takes for a launch on `stream`; with the turn."""
        packed = self._packed
        if packed is None:
            raise self._closed_error("launch")
        self._check_stream(stream)
        cu_stream = stream.cu_stream  # ClosedError after its close()
        if stream is self._stream:
            return packed
        other = self._other
        if other is None or other[0] is not stream:
            packed = self._pack(self._graph.executable.value, cu_stream)
            other = self._other = stream, packed
        return other[1]

    def _again_or_raise(self, packed: Packed, status: Any) -> None:
        again_or_raise(self._context, self._call, packed, status, self._label, name="cuGraphLaunch")

    def _captured(
        self,
        stream: CudaStream | None,
        changes: Iterable[tuple[int | str, Any]] | None = None,
    ) -> bool:
        """Look at what the flag is up for; whether the launch went into a capture of `stream`.

        There it is the kernel itself: the driver refuses a graph launched into a capture.
        """
        self._check_open("launch")
        self._attend(stream)
        stream = stream or self._stream
        if not self._ledger.captures or stream.capture_status == "none":
            return False
        self._check_stream(stream)
        with self._turn:
            if changes is not None:
                self._change(changes)
                self._ledger.keep(self._copied_block().slices())
            how = self._api.launch_ex
            made = driver_config(self._api, self.config, stream.cu_stream)
            packed = how.pack(made, self._function.cu_function, self._block)
            status = how.call(*packed)
            if status:
                again_or_raise(self._context, how.call, packed, status, self._label)
        self._ledger.last_launch = self._label
        return True

    # changing

    def set(self, which: int | str, value: Any) -> FrozenLaunch:
        """Check and replace one argument, by name or by position from 0."""
        if self._ledger.attention:
            self._context.attend(f"set of {self._label}")
        self._context.bind_to_thread()
        with self._turn:
            _ = self._function.cu_function  # the update names it; ClosedError with its module
            self._change(((which, value),))
        return self

    def clone(self, stream: CudaStream | None = None) -> FrozenLaunch:
        """An independent graph with the same arguments, for `stream` or the same one."""
        with self._turn:
            self._check_open("clone")
            block = self._copied_block()
        refuse_in_capture(f"clone of {self._label}", self._ledger)
        if self._gate.attention:
            self._attend(stream)
        stream = stream or self._stream
        return FrozenLaunch(self._function, self.config, block, stream, self._keep)

    def _change(self, changes: Iterable[tuple[int | str, Any]]) -> None:
        """All of the changes, or none; with the turn."""
        self._check_open("set")
        block = self._block
        buffer, writers = block.buffer, block.writers
        before, written = buffer[:], {}
        try:
            for which, value in changes:
                if type(which) is int and 0 <= which < len(writers):
                    position = which
                else:
                    position = position_of(block.signature, which)
                writers[position](buffer, value)
                written[position] = value
            self._graph.update(self._label)
        except Exception:
            buffer[:] = before
            raise
        for position, value in written.items():
            block.arguments[position] = value
            if position in self._watched or isinstance(value, DeviceMemory):
                self._watch(position)

    # closing

    def close(self) -> None:
        """Destroy the graph, and let go of what it kept alive; launches under way finish."""
        with self._turn:
            if self._packed is None:
                return
            self._packed, self._other, self._gate = None, None, Raised()
            self._watched.clear()
            self._block.arguments[:] = [None] * len(self._block.arguments)
            self._graph.close()

    def _check_open(self, operation: str) -> None:
        if self._packed is None:
            raise self._closed_error(operation)

    def _closed_error(self, operation: str) -> ClosedError:
        return ClosedError(f"{operation} of {self._label}: the frozen launch is closed")

    def __enter__(self) -> FrozenLaunch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FrozenLaunch {self._label}{', closed' if self._packed is None else ''}>"


def refuse_in_capture(operation: str, ledger: Ledger) -> None:
    """Making a graph is no work of a stream: it has no place in a capture."""
    if ledger.captures:
        raise CaptureError(f"{operation}: a capture runs; freeze before it")
