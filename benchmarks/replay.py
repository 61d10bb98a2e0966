"""Time captured graphs against each other: a replay holds many calls and shares its launch cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyferrum_kv import CudaGraph, CudaStream


@dataclass(frozen=True)
class Repeated:
    """A captured graph of `calls` calls."""

    graph: CudaGraph
    calls: int

    @classmethod
    def capture(cls, stream: CudaStream, call: Callable[[int], object], calls: int) -> Repeated:
        """Capture call(0) .. call(calls - 1); each is called once before, outside the capture."""
        call(0)
        stream.synchronize()
        with stream.capture() as graph:
            for index in range(calls):
                call(index)
        return cls(graph, calls)


def replay(
    stream: CudaStream, subjects: dict[str, Repeated], rounds: int
) -> dict[str, list[float]]:
    """Return device microseconds a call, one figure a round; subjects alternate in every round."""
    start, end = stream.context.new_event(timing=True), stream.context.new_event(timing=True)
    us: dict[str, list[float]] = {name: [] for name in subjects}
    for round_number in range(rounds + 1):
        for name, subject in subjects.items():
            start.record(stream)
            subject.graph.launch(stream)
            end.record(stream)
            end.synchronize()
            if round_number:  # the first round only warms up
                us[name].append(1e3 * (end - start) / subject.calls)
    return us
