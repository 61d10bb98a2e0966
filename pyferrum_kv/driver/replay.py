"""Replay: what launches made again and again share, whichever call makes them.

Arguments that were checked, the function and the stream, and the one flag that a hot path reads:
the ledger's `attention`. It is up while a capture runs, something waits to be given back, or the
context is closed, lost or forked. When an argument, the module or the stream is closed, the launch
is given a gate of its own whose flag is always up, and looks again.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock
from pyferrum_kv.driver.launch_config import LaunchConfig
from pyferrum_kv.driver.memory import DeviceMemory
from pyferrum_kv.driver.turn import Turn
from pyferrum_kv.errors import ClosedError, WrongContextError

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction
    from pyferrum_kv.driver.stream import CudaStream


class Raised:
    """A gate that always asks for attention; each invalidation raises one of its own."""

    attention = True


class Replay:
    """Base of PreparedLaunch and FrozenLaunch: what they stand on, and hearing of its end."""

    __slots__ = (
        "__weakref__",
        "_api",
        "_block",
        "_context",
        "_function",
        "_gate",
        "_keep",
        "_label",
        "_ledger",
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
        keep_arguments: bool,
    ) -> None:
        context = function.context
        self._context, self._ledger, self._api = context, context.ledger, context.api
        self._gate: Any = context.ledger
        self._turn = Turn()
        self._function, self._block = function, block
        self._keep, self._stale = keep_arguments, ""
        self._watched: dict[int, weakref.ref[Any]] = {}
        self.config, self._stream = config, stream
        self._label = f"{function.name} {config}"
        self._check_stream(stream)

    @property
    def function(self) -> CudaFunction:
        return self._function

    @property
    def stream(self) -> CudaStream:
        """The stream it was made for."""
        return self._stream

    def _watch_all(self) -> None:
        """Hear from now on of the close() of stream, module and slices."""
        self._stream.dependants.add(self)
        self._function.dependants.add(self)
        for position in range(len(self._block.arguments)):
            self._watch(position)

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

    def _copied_block(self) -> ArgumentBlock:
        """A block of one's own with the same arguments, those not kept alive among them."""
        block = self._block.copy()
        for position, ref in self._watched.items():
            block.arguments[position] = ref()
        return block

    def invalidate(self, reason: str = "") -> None:
        """Something this launch stands on was closed: look again before the next launch."""
        self._gate = Raised()

    def _attend(self, stream: CudaStream | None) -> None:
        """Refuse what may not be launched; give back what waits, and lower the flag."""
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
        self._forget_closed_stream()
        if stream is None:
            _ = self._stream.cu_stream  # ClosedError after its close()
        if self._gate is seen and not self._stream.is_closed:  # else the flag stays up
            self._gate = self._ledger
        self._ledger.keep((self._function, *arguments))

    def _forget_closed_stream(self) -> None:
        """Let go of another stream that launches went to last, if it was closed."""

    def _check_stream(self, stream: CudaStream) -> None:
        if stream.context is not self._context:
            raise WrongContextError(
                f"launch of {self._label}: the stream is of {stream.context!r};"
                f" wanted one of {self._context!r}"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label}>"


def _dropped(launch: weakref.ref[Replay], name: str) -> Any:
    """A callback for the end of a slice that the launch does not keep alive."""

    def gone(_: object) -> None:
        held = launch()
        if held is not None:
            held._stale = name
            held.invalidate()

    return gone
