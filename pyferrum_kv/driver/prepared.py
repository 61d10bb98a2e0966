"""PreparedLaunch: everything checked once, then replayed.

The hot path is one flag, one look at the thread, and one driver call on arguments that lie ready.
The flag is the ledger's `attention`: a capture runs, something waits to be given back, the context
is closed, lost or forked. When an argument, the module or the stream is closed, the launch is given
a gate of its own whose flag is always up, and looks again.

The driver reads configuration and parameter block while other threads run, so neither is ever
written while a launch may be reading it. What a launch was prepared with stays as it is, and
launching that takes no lock. The first change of an argument, or a launch on another stream, is
made on copies; from then on those launches take turns.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock, position_of
from pyferrum_kv.driver.binding import CROWD, THREAD
from pyferrum_kv.driver.direct import Packed, again_or_raise
from pyferrum_kv.driver.launch_config import LaunchConfig, checked_config, driver_config
from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.driver.turn import Turn
from pyferrum_kv.errors import ClosedError, WrongContextError

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction
    from pyferrum_kv.driver.stream import CudaStream


class _Raised:
    """A gate that always asks for attention; each invalidation raises one of its own."""

    attention = True


class PreparedLaunch:
    """A launch ready to be replayed, by function.prepare() or launch_builder(...).prepare().

    Safe to use from several threads: each launch sees arguments that belong together, if they were
    changed by one launch_with(), or on a clone() of one's own.
    """

    __slots__ = (
        "__weakref__",
        "_api",
        "_block",
        "_call",
        "_changing",
        "_context",
        "_current",
        "_driver_config",
        "_function",
        "_gate",
        "_handle",
        "_keep",
        "_label",
        "_ledger",
        "_pack",
        "_packed",
        "_stale",
        "_stream",
        "_turn",
        "_watched",
        "config",
    )

    def __init__(
        self,
        function: CudaFunction,
        config: LaunchConfig,
        block: ArgumentBlock,
        stream: CudaStream,
        keep_arguments: bool = True,
    ) -> None:
        context = function.context
        self._context, self._ledger, self._api = context, context.ledger, context.api
        self._gate: Any = context.ledger
        self._turn = Turn()
        self._call, self._pack = context.api.launch_ex.call, context.api.launch_ex.pack
        self._function, self._handle = function, function.cu_function
        self._block, self._keep, self._stale = block, keep_arguments, ""
        self._watched: dict[int, weakref.ref[Any]] = {}
        self.config, self._stream = config, stream
        self._label = f"{function.name} {config}"
        # for launches that take turns: made when first needed, written only with the turn
        self._driver_config: Any = None
        self._changing: Packed | None = None
        self._current: CudaStream | None = None
        self._check_stream(stream)
        made = driver_config(self._api, config, stream.cu_stream)  # ClosedError after its close()
        self._packed: Packed | None = self._pack(made, self._handle, block)  # None once changed
        stream.dependants.add(self)
        function.dependants.add(self)
        for position in range(len(block.arguments)):
            self._watch(position)

    @property
    def function(self) -> CudaFunction:
        return self._function

    @property
    def stream(self) -> CudaStream:
        """The stream it was prepared for."""
        return self._stream

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
            block = self._block.copy()
            for position, ref in self._watched.items():
                block.arguments[position] = ref()
            config, stream = self.config, self._stream
        return PreparedLaunch(self._function, config, block, stream, self._keep)

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
            before = buffer[:], arguments[:]
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
                buffer[:], arguments[:] = before
            raise

    # what must stay alive

    def _watch(self, position: int) -> None:
        """Hear of the close() of a slice, and of its end if it is not kept alive."""
        value = self._block.arguments[position]
        self._watched.pop(position, None)
        if not isinstance(value, DeviceMemory):
            return
        value.root.dependants.add(self)
        if not self._keep:
            name = self._block.signature.params[position].name
            self._watched[position] = weakref.ref(value.root, _dropped(weakref.ref(self), name))
            self._block.arguments[position] = None

    def invalidate(self, reason: str = "") -> None:
        """Something this launch stands on was closed: look again before the next launch."""
        self._gate = _Raised()

    def _attend(self, stream: CudaStream | None) -> None:
        seen = self._gate
        self._context.attend(f"launch of {self._label}")
        if self._stale:
            raise ClosedError(f"launch of {self._label}: argument '{self._stale}' is gone")
        _ = self._function.cu_function
        arguments = list(self._block.arguments)
        for position, ref in list(self._watched.items()):
            arguments[position] = ref()
        for position, value in enumerate(arguments):
            if isinstance(value, DeviceMemory) and value.is_closed:
                name = self._block.signature.params[position].name
                raise ClosedError(
                    f"launch of {self._label}: argument {position + 1} '{name}' is {value!r}"
                )
        with self._turn:
            if self._current is not None and self._current.is_closed:
                self._current = None
        if stream is None:
            _ = self._stream.cu_stream  # ClosedError after its close()
        if self._gate is seen and not self._stream.is_closed:  # else the flag stays up
            self._gate = self._ledger
        self._ledger.keep((self._function, *arguments))

    def _check_stream(self, stream: CudaStream) -> None:
        if stream.context is not self._context:
            raise WrongContextError(
                f"launch of {self._label}: the stream is of {stream.context!r};"
                f" wanted one of {self._context!r}"
            )

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

    def __repr__(self) -> str:
        return f"<PreparedLaunch {self._label}>"


def _dropped(launch: weakref.ref[PreparedLaunch], name: str) -> Any:
    """A callback for the end of a slice that the launch does not keep alive."""

    def gone(_: object) -> None:
        held = launch()
        if held is not None:
            held._stale = name
            held.invalidate()

    return gone
