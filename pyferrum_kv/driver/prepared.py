"""PreparedLaunch: everything checked once, then replayed.

The hot path is one flag (replay.py), one look at the thread, and one driver call on arguments that
lie ready.

The driver reads configuration and parameter block while other threads run, so neither is ever
written while a launch may be reading it. What a launch was prepared with stays as it is, and
launching that takes no lock. The first change of an argument, or a launch on another stream, is
made on copies; from then on those launches take turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock, position_of
from pyferrum_kv.driver.binding import CROWD, THREAD
from pyferrum_kv.driver.direct import Packed, again_or_raise
from pyferrum_kv.driver.frozen import FrozenLaunch, refuse_in_capture
from pyferrum_kv.driver.launch_config import LaunchConfig, checked_config, driver_config
from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.driver.replay import Replay

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction
    from pyferrum_kv.driver.stream import CudaStream


class PreparedLaunch(Replay):
    """A launch ready to be replayed, by function.prepare() or launch_builder(...).prepare().

    Safe to use from several threads: each launch sees arguments that belong together, if they were
    changed by one launch_with(), or on a clone() of one's own.
    """

    __slots__ = (
        "_call",
        "_changing",
        "_current",
        "_driver_config",
        "_handle",
        "_pack",
        "_packed",
    )

    def __init__(
        self,
        function: CudaFunction,
        config: LaunchConfig,
        block: ArgumentBlock,
        stream: CudaStream,
        keep_arguments: bool = True,
    ) -> None:
        super().__init__(function, config, block, stream, keep_arguments)
        launch_ex = self._api.launch_ex
        self._call, self._pack = launch_ex.call, launch_ex.pack
        self._handle = function.cu_function
        # for launches that take turns: made when first needed, written only with the turn
        self._driver_config: Any = None
        self._changing: Packed | None = None
        self._current: CudaStream | None = None
        made = driver_config(self._api, config, stream.cu_stream)  # ClosedError after its close()
        self._packed: Packed | None = self._pack(made, self._handle, block)  # None once changed
        self._watch_all()

    # launching

    def launch(self, stream: CudaStream | None = None) -> None:
        """Launch on `stream`, by default the one it was prepared for; asynchronous."""
        if self._gate.attention:
            self._attend(stream)
        if not CROWD.is_one and THREAD.bound is not self._ledger:
            self._context.bind_to_thread()
        packed = self._packed
        if packed is None or stream is not None:
            self._in_turn(stream)
            return
        status = self._call(*packed)
        if status:
            again_or_raise(self._context, self._call, packed, status, self._label)
        self._ledger.last_launch = self._label

    __call__ = launch

    def launch_with(
        self, changes: Iterable[tuple[int | str, Any]], stream: CudaStream | None = None
    ) -> None:
        """Change arguments and launch, as one step that no other thread comes between."""
        if self._gate.attention:
            self._attend(stream)
        if not CROWD.is_one and THREAD.bound is not self._ledger:
            self._context.bind_to_thread()
        self._in_turn(stream, changes)

    def _in_turn(
        self, stream: CudaStream | None, changes: Iterable[tuple[int | str, Any]] | None = None
    ) -> None:
        stream, turn = stream or self._stream, self._turn
        try:
            turn.pop()
        except IndexError:
            turn.wait()
        try:
            if changes is not None:
                self._change(changes)
                if self._ledger.captures:
                    self._ledger.keep(self._copied_block().slices())
            packed = self._changing
            if packed is None or stream is not self._current:
                packed = self._redirected(stream)
            status = self._call(*packed)
            if status:
                again_or_raise(self._context, self._call, packed, status, self._label)
        finally:
            turn.append(None)
        self._ledger.last_launch = self._label

    # changing

    def set(self, which: int | str, value: Any) -> PreparedLaunch:
        """Check and replace one argument, by name or by position from 0."""
        turn = self._turn
        try:
            turn.pop()
        except IndexError:
            turn.wait()
        try:
            self._change(((which, value),))
        finally:
            turn.append(None)
        return self

    def configure(self, config: LaunchConfig) -> PreparedLaunch:
        """Replace the launch configuration."""
        checked_config(self._function, config)
        with self._turn:
            if self._packed is not None:
                self._leave_prepared()
            self._changing = None
            self.config, self._label = config, f"{self._function.name} {config}"
        return self

    def clone(self) -> PreparedLaunch:
        """An independent launch with the same arguments: one for each thread that changes them."""
        with self._turn:
            block = self._copied_block()
            config, stream = self.config, self._stream
        return PreparedLaunch(self._function, config, block, stream, self._keep)

    def freeze(self, stream: CudaStream | None = None) -> FrozenLaunch:
        """A graph of this launch as it is now, for `stream` (by default its own): cheaper to make.

        Later changes of either do not reach the other. `programmatic` is refused: a graph of one
        kernel begins when what is ahead of it has ended. In a capture a CaptureError.
        """
        with self._turn:
            block, config = self._copied_block(), self.config
        refuse_in_capture(f"freeze of {self._label}", self._ledger)
        if self._gate.attention:  # after the copy, which keeps the slices alive
            self._attend(stream)
        return FrozenLaunch(self._function, config, block, stream or self._stream, self._keep)

    def _leave_prepared(self) -> None:
        """Change a copy: another thread's launch may be reading what was prepared."""
        self._packed = self._changing = None
        self._block = self._block.copy()

    def _change(self, changes: Iterable[tuple[int | str, Any]]) -> None:
        """All of the changes, or none."""
        if self._packed is not None:
            self._leave_prepared()
        block, watched = self._block, self._watched
        buffer, arguments, writers = block.buffer, block.arguments, block.writers
        before = None  # a writer writes or raises, so one change alone has nothing to undo
        if not isinstance(changes, tuple) or len(changes) > 1:
            before = buffer[:], arguments[:], dict(watched)
        try:
            for which, value in changes:
                if type(which) is int and 0 <= which < len(writers):
                    position = which
                else:
                    position = position_of(block.signature, which)
                writers[position](buffer, value)
                arguments[position] = value
                if position in watched or isinstance(value, DeviceMemory):
                    self._watch(position)
        except Exception:
            if before is not None:
                buffer[:], arguments[:], self._watched = before
            raise

    def _forget_closed_stream(self) -> None:
        with self._turn:
            if self._current is not None and self._current.is_closed:
                self._current = None

    def _redirected(self, stream: CudaStream) -> Packed:
        """What call() takes for launches in turn, now on `stream`; with the turn."""
        self._check_stream(stream)
        cu_stream = stream.cu_stream  # ClosedError after its close()
        packed = self._changing
        if packed is None:
            self._driver_config = driver_config(self._api, self.config, cu_stream)
            packed = self._changing = self._pack(self._driver_config, self._handle, self._block)
        else:
            self._driver_config.hStream = cu_stream
        stream.dependants.add(self)
        self._current = stream
        return packed
