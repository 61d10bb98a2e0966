"""Time captured graphs against each other: a replay holds many calls and shares its launch cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyferrum_kv import CudaGraph, CudaStream


@dataclass(frozen=True)
class Repeated:
    """A captured graph of `calls` calls."""

    graph: CudaGraph
    calls: int

    @classmethod
    def capture(cls, stream: CudaStream, call: Callable[[int], object], calls: int) -> Repeated:
        """Capture call(0) .. call(calls - 1); call(0) runs once before, outside it."""
        call(0)
        stream.synchronize()
        with stream.capture() as graph:
            for index in range(calls):
                call(index)
        return cls(graph, calls)

    def timer(self, stream: CudaStream) -> Callable[[], float]:
        """A function that replays once and returns device microseconds a call."""
        start, end = stream.context.new_event(timing=True), stream.context.new_event(timing=True)

        def once() -> float:
            start.record(stream)
            self.graph.launch(stream)
            end.record(stream)
            end.synchronize()
            return 1e3 * (end - start) / self.calls

        return once


def in_turn(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """One figure a round of every subject; they take turns, and the first round only warms up."""
    us: dict[str, list[float]] = {name: [] for name in subjects}
    for round_number in range(rounds + 1):
        for name, once in subjects.items():
            figure = once()
            if round_number:
                us[name].append(figure)
    return us


def replay(
    stream: CudaStream, subjects: dict[str, Repeated], rounds: int
) -> dict[str, list[float]]:
    """Return device microseconds a call, one figure a round; subjects alternate in every round."""
    return in_turn({name: subject.timer(stream) for name, subject in subjects.items()}, rounds)
