"""Host functions: Python that the driver calls when a stream gets there."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.lifetime import DeferredError

if TYPE_CHECKING:
    from pyferrum_kv.driver.stream import CudaStream

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Pending:
    """The C entry points that the driver may still call, of one context."""

    def __init__(self) -> None:
        self.waiting: dict[int, Any] = {}
        # one that has run is not freed from inside itself, but many calls later
        self.done: deque[Any] = deque(maxlen=256)


def call_on_host(stream: CudaStream, function: Callable[[], None]) -> None:
    """Enqueue `function`; a captured one stays with its graph and may run many times."""
    context = stream.context
    pending = context.attachments.setdefault(_Pending, _Pending())
    is_captured = bool(context.ledger.captures)

    def run(_: int) -> None:
        try:
            function()
        except Exception as error:
            context.ledger.deferred.append(DeferredError(f"call_on_host({function!r})", error))
        finally:
            if not is_captured:
                pending.done.append(pending.waiting.pop(id(entry)))

    entry = _HOST_FUNCTION(run)
    if is_captured:
        context.ledger.keep((entry,))
    else:
        pending.waiting[id(entry)] = entry
    address = ctypes.cast(entry, ctypes.c_void_p).value
    args = (stream.cu_stream, context.api.raw.CUhostFn(address), 0)
    try:
        context.call("cuLaunchHostFunc", *args, on=f"{stream!r}, {function!r}")
    except Exception:
        pending.waiting.pop(id(entry), None)
        raise
