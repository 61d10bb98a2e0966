"""Device memory that decode launches keep the states of splits in.

One launch at a time uses a workspace: launches on one stream may share one, launches on two streams
may not. Each stream has one of its own, reserved at the first launch that needs it, or by
preload(); a caller who wants another size, or to manage it, passes a Workspace.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyferrum_kv.errors import ArgumentError, CaptureError
from pyferrum_kv.int8_kv.checks import FLOAT32, UINT32
from pyferrum_kv.int8_kv.plan import NUM_COUNTERS, Budget

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaSlice, CudaStream

PER_THREAD_STREAM = 2
_RESERVING = threading.Lock()


@dataclass(frozen=True, eq=False)
class Workspace:
    """Owns its slices. `counters` are zero whenever no launch runs: each launch leaves them so.

    states:    float32 [num_floats]
    counters:  uint32  [num_counters]
    """

    states: CudaSlice
    counters: CudaSlice

    @classmethod
    def allocate(
        cls, stream: CudaStream, num_floats: int = 0, num_counters: int = NUM_COUNTERS
    ) -> Workspace:
        """Allocate and zero on `stream`; num_floats 0 takes what suits the device."""
        if not num_floats:
            num_floats = Budget.of(stream.context).workspace_floats
        counters = stream.alloc_zeros(num_counters, UINT32)
        try:
            return cls(stream.alloc(num_floats, FLOAT32), counters)
        except BaseException:
            counters.close()
            raise

    @classmethod
    def of(cls, stream: CudaStream, operation: str = "paged_decode_attention_int8") -> Workspace:
        """The stream's own; reserved here if it has none. Refused while a capture runs."""
        held = stream.attachments.get(cls)
        if held is None or held.states.is_closed:
            if stream.handle == PER_THREAD_STREAM:
                raise ArgumentError(
                    f"{operation}: workspace is None; wanted one, as the per-thread"
                    " stream is another stream in each thread: Workspace.allocate(stream)"
                )
            if stream.context.ledger.captures:
                raise CaptureError(
                    f"{operation}: the stream has no workspace yet and a capture runs; call"
                    " int8_kv.preload(ctx, stream) before it"
                )
            with _RESERVING:
                held = stream.attachments.get(cls)
                if held is None or held.states.is_closed:
                    held = stream.attachments[cls] = cls.allocate(stream)
        assert isinstance(held, cls)
        return held

    def close(self) -> None:
        """Free the memory, in the order of the stream it was allocated on."""
        self.states.close()
        self.counters.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
