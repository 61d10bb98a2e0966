"""paged_decode_attention_int8 and the plain read of as many bytes, ready to be timed.

Memory is taken once and grows only when a larger shape comes: the pools of every call, and what
the read passes over, are parts of two allocations of random codes and of equal scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.decode_shapes import Shape
from benchmarks.read_ceiling import CTAS_AN_SM, launch_read, read_kernel
from benchmarks.replay import Repeated
from pyferrum_kv import CudaContext, CudaSlice, CudaStream
from pyferrum_kv.dtypes import to_bfloat16
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, paged_decode_attention_int8

ROTATED_BYTES = 600_000_000
"""What the calls of one replay read at least, so that nothing is left of it in the L2."""
MAX_CALLS = 300
PATTERN = 1 << 24


def calls_of(num_bytes: int, rotated: int = ROTATED_BYTES) -> int:
    """Calls in a graph, each on memory of its own."""
    return max(1, min(MAX_CALLS, -(-rotated // num_bytes)))


def block_table(shape: Shape, seed: int = 0) -> np.ndarray[Any, Any]:
    """int32 [batch_size, max_blocks]: all blocks in random order, each once."""
    blocks = np.array(shape.blocks)
    table = np.zeros((len(blocks), blocks.max()), np.int32)
    used = np.arange(blocks.max()) < blocks[:, None]
    table[used] = np.random.default_rng(seed).permutation(blocks.sum())
    return table


class Arena:
    """Codes and scales on the device, lent in parts."""

    def __init__(self, stream: CudaStream) -> None:
        self.stream = stream
        self._codes = stream.alloc(0, np.int8)
        self._scales = stream.alloc(0, np.float16)

    def codes(self, count: int) -> CudaSlice:
        """At least `count` random codes, never all zeros."""
        if len(self._codes) < count:
            self._codes.close()
            rng = np.random.default_rng(0)
            pattern = rng.integers(-127, 128, min(PATTERN, count), dtype=np.int8)
            self._codes = self._filled(pattern, count)
        return self._codes

    def scales(self, count: int) -> CudaSlice:
        if len(self._scales) < count:
            self._scales.close()
            self._scales = self._filled(np.full(min(PATTERN, count), 0.02, np.float16), count)
        return self._scales

    def _filled(self, pattern: np.ndarray[Any, Any], count: int) -> CudaSlice:
        """The pattern over and over: each copy doubles what is there."""
        made = self.stream.alloc(count, pattern.dtype)
        self.stream.memcpy_htod(pattern, made[: len(pattern)])
        there = len(pattern)
        while there < count:
            more = min(there, count - there)
            self.stream.memcpy_dtod(made[:more], made[there : there + more])
            there += more
        self.stream.synchronize()
        return made

    def pools(self, layout: KvLayout, calls: int) -> list[Int8KvPools]:
        """Of every call its own: the layers of a model, which share a block table."""
        n, m = layout.num_codes, layout.num_scales
        codes, scales = self.codes(2 * n * calls), self.scales(2 * m * calls)
        return [
            Int8KvPools(
                layout,
                codes[2 * n * i : 2 * n * i + n],
                codes[2 * n * i + n : 2 * n * (i + 1)],
                scales[2 * m * i : 2 * m * i + m],
                scales[2 * m * i + m : 2 * m * (i + 1)],
            )
            for i in range(calls)
        ]

    def close(self) -> None:
        self._codes.close()
        self._scales.close()


class Ours:
    """The captured graphs of one shape: `ours`, and `limit N` with N CTAs an SM."""

    def __init__(
        self, ctx: CudaContext, arena: Arena, shape: Shape, rotated: int = ROTATED_BYTES
    ) -> None:
        self.stream = ctx.new_stream()
        self.calls = calls_of(shape.num_bytes, rotated)
        # the read needs a little more than the codes alone, in one piece
        self.codes = arena.codes(max(shape.num_bytes * self.calls, 1))
        layout = KvLayout(sum(shape.blocks), shape.block_size, shape.num_kv_heads, shape.head_dim)
        pools = arena.pools(layout, self.calls)
        self.codes = arena.codes(0)
        self.held: list[CudaSlice] = []
        decode, read = self._decode(shape, pools), self._read(ctx, shape)
        self.subjects = {"ours": Repeated.capture(self.stream, decode, self.calls)}
        for ctas in CTAS_AN_SM:
            self.subjects[f"limit {ctas}"] = Repeated.capture(self.stream, read(ctas), self.calls)

    def timers(self) -> dict[str, Callable[[], float]]:
        return {name: subject.timer(self.stream) for name, subject in self.subjects.items()}

    def close(self) -> None:
        for subject in self.subjects.values():
            subject.graph.close()
        for memory in self.held:
            memory.close()
        self.stream.synchronize()
        self.stream.close()

    def _hold(self, host: np.ndarray[Any, Any]) -> CudaSlice:
        self.held.append(self.stream.clone_htod(host))
        return self.held[-1]

    def _decode(self, shape: Shape, pools: list[Int8KvPools]) -> Callable[[int], None]:
        table = self._hold(block_table(shape).ravel())
        kv_lens = self._hold(np.array(shape.kv_lens, np.int32))
        rows = len(shape.kv_lens) * shape.num_q_heads
        values = np.random.default_rng(1).standard_normal(rows * shape.head_dim, np.float32)
        is_half = shape.dtype == "float16"
        q = self._hold(values.astype(np.float16) if is_half else to_bfloat16(values))
        out = self._hold(np.zeros(len(q), q.dtype))
        lse = self._hold(np.zeros(rows, np.float32)) if shape.lse else None

        def decode(call: int) -> None:
            paged_decode_attention_int8(
                self.stream,
                q,
                pools[call],
                table,
                kv_lens,
                out,
                num_q_heads=shape.num_q_heads,
                max_kv_len=max(shape.kv_lens),
                window_left=shape.window_left,
                lse=lse,
            )

        return decode

    def _read(self, ctx: CudaContext, shape: Shape) -> Callable[[int], Callable[[int], None]]:
        kernel = read_kernel(ctx)
        sink = self._hold(np.zeros(1, np.uint32))
        num_sms = ctx.attribute("MULTIPROCESSOR_COUNT")
        size = shape.num_bytes

        def with_ctas(ctas_an_sm: int) -> Callable[[int], None]:
            def one(call: int) -> None:
                part = self.codes[call * size : (call + 1) * size]
                launch_read(self.stream, kernel, part, sink, ctas_an_sm * num_sms)

            return one

        return with_ctas
