"""PreparedLaunch: everything checked once, then replayed.

The hot path is one flag, one turn and one cuLaunchKernelEx with a ready configuration and
parameter block. The flag is the ledger's `attention`: a capture runs, something waits to be given
back, the context is closed, lost or forked. When an argument, the module or the stream is closed,
the launch is given a gate of its own whose flag is always up, and looks again.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock, position_of
from pyferrum_kv.driver.binding import THREAD
from pyferrum_kv.driver.codes import INVALID_CONTEXT, INVALID_HANDLE, STICKY
from pyferrum_kv.driver.launch_config import LaunchConfig, checked_config, driver_config
from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.driver.turn import Turn
from pyferrum_kv.errors import ClosedError, DriverError, WrongContextError

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction
    from pyferrum_kv.driver.stream import CudaStream


class _Raised:
    """A gate that always asks for attention."""

    attention = True


class PreparedLaunch:
    """A launch ready to be replayed, by function.prepare() or launch_builder(...).prepare().

    Safe to use from several threads: each launch sees arguments that belong together, if they were
    changed by one launch_with(), or on a clone() of one's own.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_arguments",
        "_block",
        "_buffer",
        "_context",
        "_current",
        "_driver_config",
        "_function",
        "_gate",
        "_handle",
        "_keep",
        "_label",
        "_launch_ex",
        "_ledger",
        "_put_back",
        "_stale",
        "_take",
        "_turn",
        "_watched",
        "_writers",
        "config",
        "stream",
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
        self._context, self._ledger = context, context.ledger
        self._gate: Any = context.ledger
        self._turn = Turn()
        self._take, self._put_back = self._turn.pop, self._turn.append
        self._launch_ex = context.api.raw.cuLaunchKernelEx
        self._function, self._handle = function, function.cu_function
        self._block, self._address = block, block.address
        self._buffer, self._writers, self._arguments = block.buffer, block.writers, block.arguments
        self._keep = keep_arguments
        self._stale = ""
        self._watched: dict[int, weakref.ref[Any]] = {}
        self.config, self.stream = config, stream
        self._label = f"{function.name} {config}"
        self._driver_config = driver_config(context.api, config, stream.cu_stream)
        self._current: CudaStream | None = None
        self._redirect(stream)
        function.dependants.add(self)
        for position in range(len(block.arguments)):
            self._watch(position)

    @property
    def function(self) -> CudaFunction:
        return self._function

    # launching

    def launch(self, stream: CudaStream | None = None) -> None:
        """Launch on `stream`, by default the one it was prepared for; asynchronous."""
        if self._gate.attention:
            self._attend()
        if THREAD.bound is not self._ledger:
            self._context.bind_to_thread()
        if stream is None:
            stream = self.stream
        try:
            self._take()
        except IndexError:
            self._turn.wait()
        try:
            if stream is not self._current:
                self._redirect(stream)
            status = self._launch_ex(self._driver_config, self._handle, self._address, 0)[0]
            if status:
                self._fail(status)
        finally:
            self._put_back(None)
        self._context.last_launch = self._label

    __call__ = launch

    def launch_with(
        self, changes: Iterable[tuple[int | str, Any]], stream: CudaStream | None = None
    ) -> None:
        """Change arguments and launch, as one step that no other thread comes between."""
        if self._gate.attention:
            self._attend()
        if THREAD.bound is not self._ledger:
            self._context.bind_to_thread()
        if stream is None:
            stream = self.stream
        try:
            self._take()
        except IndexError:
            self._turn.wait()
        try:
            self._change(changes)
            if stream is not self._current:
                self._redirect(stream)
            status = self._launch_ex(self._driver_config, self._handle, self._address, 0)[0]
            if status:
                self._fail(status)
        finally:
            self._put_back(None)
        self._context.last_launch = self._label

    # changing

    def set(self, which: int | str, value: Any) -> PreparedLaunch:
        """Check and replace one argument, by name or by position from 0."""
        position = self._position(which)
        try:
            self._take()
        except IndexError:
            self._turn.wait()
        try:
            self._write(position, value)
        finally:
            self._put_back(None)
        return self

    def configure(self, config: LaunchConfig) -> PreparedLaunch:
        """Replace the launch configuration."""
        checked_config(self._function, config)
        with self._turn:
            stream = self._current or self.stream
            self._driver_config = driver_config(self._context.api, config, stream.cu_stream)
            self.config, self._label = config, f"{self._function.name} {config}"
        return self

    def clone(self) -> PreparedLaunch:
        """An independent launch with the same arguments: one for each thread that changes them."""
        with self._turn:
            block = self._block.copy()
            for position, ref in self._watched.items():
                block.arguments[position] = ref()
            config, stream = self.config, self.stream
        return PreparedLaunch(self._function, config, block, stream, self._keep)

    def _change(self, changes: Iterable[tuple[int | str, Any]]) -> None:
        """All of the changes, or none."""
        buffer, arguments = self._buffer, self._arguments
        before = bytes(buffer), arguments.copy()
        try:
            for which, value in changes:
                self._write(self._position(which), value)
        except Exception:
            buffer[:], arguments[:] = before
            raise

    def _write(self, position: int, value: Any) -> None:
        self._writers[position](self._buffer, value)
        self._arguments[position] = value
        if isinstance(value, DeviceMemory) or position in self._watched:
            self._watch(position)

    def _position(self, which: int | str) -> int:
        if type(which) is int and 0 <= which < len(self._arguments):
            return which
        return position_of(self._block.signature, which)

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
        self._gate = _Raised

    def _attend(self) -> None:
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
        self._gate = self._ledger
        self._ledger.keep((self._function, *arguments))

    def _redirect(self, stream: CudaStream) -> None:
        if stream.context is not self._context:
            raise WrongContextError(
                f"launch of {self._label}: the stream is of {stream.context!r};"
                f" wanted one of {self._context!r}"
            )
        self._driver_config.hStream = stream.cu_stream  # ClosedError after its close()
        stream.dependants.add(self)
        self._current = stream

    def _fail(self, status: Any) -> None:
        """Try once more if another library changed the thread's context; else raise."""
        context = self._context
        if status in (INVALID_CONTEXT, INVALID_HANDLE):
            api = context.api
            if int(api.call("cuCtxGetCurrent")) != context.handle:
                context.bind_to_thread()
                status = self._launch_ex(self._driver_config, self._handle, self._address, 0)[0]
        if status:
            error = context.api.error("cuLaunchKernelEx", status, self._label)
            if isinstance(error, DriverError) and error.code in STICKY:
                raise context.lose(error) from error
            raise error

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
