"""Device times of append and decode, from captured graphs; for a GPU only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from pyferrum_kv.cli.demonstration import Demonstration
from pyferrum_kv.driver import CudaStream

CALLS, REPLAYS = 10, 15


@dataclass(frozen=True)
class Timed:
    """Device time of an operation, and the bytes that it must move in that time."""

    operation: str
    num_tokens: int
    us: float
    bytes_moved: int

    @property
    def gb_per_s(self) -> float:
        return self.bytes_moved / self.us / 1e3


def measure(demonstration: Demonstration) -> list[Timed]:
    """Time an append of all tokens, and a decode over the longest sequence alone."""
    stream, shape = demonstration.stream, demonstration.shape
    num_tokens, longest = shape.layout.num_slots, max(shape.kv_lens)
    rows = 2 * shape.num_kv_heads  # of K and V, a token
    row_bytes = shape.head_dim + 2  # codes and a scale
    fp16_row_bytes, slot_bytes = 2 * shape.head_dim, 4
    append_bytes = num_tokens * (rows * (fp16_row_bytes + row_bytes) + slot_bytes)
    append_us = _replayed_us(stream, demonstration.append)
    decode_us = _replayed_us(stream, demonstration.decode_longest)
    return [
        Timed("append", num_tokens, append_us, append_bytes),
        Timed("decode", longest, decode_us, longest * rows * row_bytes),
    ]


def _replayed_us(stream: CudaStream, call: Callable[[], None]) -> float:
    """Return microseconds a call: a captured graph of several, the median of its replays."""
    start = stream.context.new_event(timing=True)
    end = stream.context.new_event(timing=True)
    with stream.capture() as graph:
        for _ in range(CALLS):
            call()
    us = []
    for _ in range(REPLAYS + 1):
        start.record(stream)
        graph.launch(stream)
        end.record(stream)
        end.synchronize()
        us.append(1e3 * (end - start) / CALLS)
    graph.close()
    return median(us[1:])  # the first replay warms up
