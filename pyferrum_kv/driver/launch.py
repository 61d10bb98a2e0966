"""LaunchBuilder: arguments one by one, then launch or prepare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.event import CudaEvent
from pyferrum_kv.driver.launch_config import LaunchConfig
from pyferrum_kv.driver.prepared import PreparedLaunch
from pyferrum_kv.errors import WrongContextError

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction
    from pyferrum_kv.driver.stream import CudaStream


class LaunchBuilder:
    """One launch in the making: stream.launch_builder(f).arg(x).arg(y).launch(config)."""

    __slots__ = ("_arguments", "_function", "_stream", "_timed")

    def __init__(self, stream: CudaStream, function: CudaFunction) -> None:
        if function.context is not stream.context:
            raise WrongContextError(
                f"launch_builder: {function.name} is of {function.context!r},"
                f" the stream of {stream.context!r}"
            )
        self._stream, self._function = stream, function
        self._arguments: list[Any] = []
        self._timed = False

    def arg(self, value: Any) -> LaunchBuilder:
        """Add the next argument: a slice, a view, a number, a struct's bytes, or None for null."""
        self._arguments.append(value)
        return self

    def args(self, *values: Any) -> LaunchBuilder:
        """Add several."""
        self._arguments.extend(values)
        return self

    def timed(self) -> LaunchBuilder:
        """Record events around the launch; launch() then returns them."""
        self._timed = True
        return self

    def launch(self, config: LaunchConfig) -> tuple[CudaEvent, CudaEvent] | None:
        """Check, and launch asynchronously. Timed: (start, end); `end - start` is milliseconds."""
        launch = self._function.once.launch
        if not self._timed:
            launch(config, self._arguments, self._stream)
            return None
        start = CudaEvent(self._stream.context, timing=True).record(self._stream)
        launch(config, self._arguments, self._stream)
        return start, CudaEvent(self._stream.context, timing=True).record(self._stream)

    def prepare(self, config: LaunchConfig) -> PreparedLaunch:
        """Check everything once, and return a launch to replay."""
        return self._function.prepare(config, *self._arguments, stream=self._stream)
