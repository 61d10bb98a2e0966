"""What the peers of bench_decode.py share: torch's memory, captured graphs, and a check.

A peer that computes something else would be timed for nothing, so the output of its first call is
held against float32 attention over the same memory, for one sequence and one KV head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.decode_ours import ROTATED_BYTES, calls_of
from benchmarks.decode_peers_build import Absent
from benchmarks.decode_shapes import Shape

PATTERN = 1 << 24
TOLERANCES = {1: 0.1, 2: 0.02}
"""Relative L2 error of the output, by bytes an element of the cache."""


@dataclass
class Prepared:
    """A peer ready for a shape. call(i) decodes out of the i-th cache into `out`."""

    call: Callable[[int], object]
    out: Callable[[], Any]  # [batch_size, num_q_heads, head_dim], after a call
    q: Any  # likewise
    k: Any  # [kv_len, head_dim] of sequence 0 and KV head 0 in cache 0
    v: Any
    calls: int

    def check(self, shape: Shape) -> None:
        """Absent if the first call's output is not attention."""
        self.call(0)
        first = max(shape.kv_lens[0] - shape.window_left - 1, 0) if shape.window_left >= 0 else 0
        k, v = self.k[first:].float(), self.v[first:].float()
        q = self.q[0, : shape.group].float()
        wanted = (q @ k.T * shape.head_dim**-0.5).softmax(-1) @ v
        got = self.out()[0, : shape.group].float()
        error = float((got - wanted).norm() / wanted.norm())
        if not error <= TOLERANCES[self.k.element_size()]:
            raise Absent(f"its output is off by {error:.2g}, relative L2")


@dataclass
class TorchMemory:
    """Caches of N(0, 1), one buffer a dtype that all peers and shapes use in turn."""

    device: str = "cuda"
    rotated: int = ROTATED_BYTES
    workspace_bytes: int = 512 << 20
    _buffers: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise Absent(f"torch: {error}") from error
        torch.manual_seed(0)
        self.torch = torch

    def flat(self, dtype: Any, count: int) -> Any:
        """At least `count` values."""
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < count:
            self._buffers.pop(dtype, None)
            del buffer
            self._release()
            pattern = self.torch.randn(min(PATTERN, count), device=self.device).to(dtype)
            buffer = self.torch.empty(count, dtype=dtype, device=self.device)
            there = len(pattern)
            buffer[:there] = pattern
            while there < count:
                more = min(there, count - there)
                buffer[there : there + more] = buffer[:more]
                there += more
            self._buffers[dtype] = buffer
        return buffer

    def clear(self) -> None:
        """Give all memory back."""
        self._buffers.clear()
        self._release()

    def is_sound(self) -> bool:
        """Whether the device still works: some errors end a context for everybody in it."""
        try:
            self.torch.zeros(1, device=self.device).cpu()
        except Exception:
            return False
        return True

    def _release(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def caches(self, dtype: Any, shape: Shape, a_cache: tuple[int, ...]) -> Any:
        """[calls, 2, *a_cache]: K and V of every call."""
        size = 2 * int(np.prod(a_cache))
        visible = 2 * shape.visible * shape.num_kv_heads * shape.head_dim * dtype.itemsize
        calls = calls_of(visible, self.rotated)
        return self.flat(dtype, calls * size)[: calls * size].view(calls, 2, *a_cache)

    def paged(self, dtype: Any, shape: Shape) -> Any:
        """[calls, 2, num_blocks, block_size, num_kv_heads, head_dim]."""
        layout = (sum(shape.blocks), shape.block_size, shape.num_kv_heads, shape.head_dim)
        return self.caches(dtype, shape, layout)

    def q(self, shape: Shape) -> Any:
        """[batch_size, num_q_heads, head_dim]."""
        sizes = (len(shape.kv_lens), shape.num_q_heads, shape.head_dim)
        return self.torch.randn(sizes, device=self.device).to(getattr(self.torch, shape.dtype))

    def workspace(self) -> Any:
        """Zeros at first; each peer leaves in it what it likes, and zeros where it counts."""
        if "workspace" not in self._buffers:
            self._buffers["workspace"] = self.torch.zeros(
                self.workspace_bytes, dtype=self.torch.uint8, device=self.device
            )
        return self._buffers["workspace"]

    def capture(self, prepared: Prepared) -> Callable[[], float]:
        """A function that replays all calls once and returns device microseconds a call."""
        torch = self.torch
        prepared.call(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(prepared.calls):
                prepared.call(index)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def once() -> float:
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return 1e3 * float(start.elapsed_time(end)) / prepared.calls

        return once
