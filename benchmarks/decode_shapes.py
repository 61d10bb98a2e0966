"""The shapes that bench_decode.py times, by name and by set: plain data, no device.

Names: query heads to a KV head (mha: 1), head_dim unless 128, sequences, tokens of each. g4 is
32/8 heads, g8 64/8, g2 16/8, g16 32/2, g32 32/1, g3 24/8, g5 40/8, g7 28/4, g10 40/4.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KV_LENS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
HEAT_HEAD_DIMS = (64, 128, 256)
HEAT_BYTES = 24_000_000_000
"""No cell of the heat map reads more, so that it fits beside nothing else into 80 GB."""


@dataclass(frozen=True)
class Shape:
    """One decode step of one layer."""

    name: str
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    kv_lens: tuple[int, ...]
    block_size: int = 16
    dtype: str = "float16"  # of q and out
    window_left: int = -1
    lse: bool = False

    @property
    def group(self) -> int:
        return self.num_q_heads // self.num_kv_heads

    @property
    def visible(self) -> int:
        """Tokens that a step must read, of all sequences."""
        most = self.window_left + 1 if self.window_left >= 0 else max(self.kv_lens)
        return sum(min(n, most) for n in self.kv_lens)

    @property
    def num_bytes(self) -> int:
        """Codes and fp16 scales that a step must read, down to whole 16 bytes."""
        return 2 * self.visible * self.num_kv_heads * (self.head_dim + 2) // 16 * 16

    @property
    def blocks(self) -> tuple[int, ...]:
        return tuple(-(-n // self.block_size) for n in self.kv_lens)

    def as_json(self) -> dict[str, Any]:
        lens = sorted(set(self.kv_lens))
        facts = asdict(self) | {"batch_size": len(self.kv_lens), "num_bytes": self.num_bytes}
        facts["kv_lens"] = lens[0] if len(lens) == 1 else {n: self.kv_lens.count(n) for n in lens}
        return facts


def _shape(name: str, heads: str, head_dim: int, batch_size: int, kv_len: int) -> Shape:
    num_q_heads, num_kv_heads = (int(n) for n in heads.split("/"))
    return Shape(name, num_q_heads, num_kv_heads, head_dim, (kv_len,) * batch_size)


def _goals() -> Iterator[Shape]:
    yield _shape("g4_b1_1k", "32/8", 128, 1, 1024)
    yield _shape("g4_b1_8k", "32/8", 128, 1, 8192)
    yield _shape("g4_b1_32k", "32/8", 128, 1, 32768)
    yield _shape("g4_b1_128k", "32/8", 128, 1, 131072)
    yield _shape("g4_b16_4k", "32/8", 128, 16, 4096)
    yield _shape("g4_b64_2k", "32/8", 128, 64, 2048)
    yield _shape("g4_b128_1k", "32/8", 128, 128, 1024)
    yield _shape("g4_b256_8k", "32/8", 128, 256, 8192)
    yield _shape("mha_b16_4k", "32/32", 128, 16, 4096)
    yield _shape("g8_b32_4k", "64/8", 128, 32, 4096)
    yield _shape("g8_d64_b64_4k", "64/8", 64, 64, 4096)
    yield _shape("g2_d256_b16_4k", "16/8", 256, 16, 4096)
    yield _shape("g16_b32_4k", "32/2", 128, 32, 4096)


def _more() -> Iterator[Shape]:
    yield Shape("skew_128k", 32, 8, 128, (131072, *[1024] * 63))
    yield Shape("skew_32k", 32, 8, 128, (32768, *[256] * 255))
    yield _shape("g3_b32_4k", "24/8", 128, 32, 4096)
    yield _shape("g5_b32_4k", "40/8", 128, 32, 4096)
    yield _shape("g7_b32_4k", "28/4", 128, 32, 4096)
    yield _shape("g10_b32_4k", "40/4", 128, 32, 4096)
    yield _shape("g32_b32_4k", "32/1", 128, 32, 4096)
    for head_dim in (80, 96, 192):
        yield _shape(f"g4_d{head_dim}_b32_4k", "32/8", head_dim, 32, 4096)
    whole = _shape("g4_b64_2k", "32/8", 128, 64, 2048)
    yield replace(whole, name="g4_b64_2k_bf16", dtype="bfloat16")
    long = _shape("g4_b16_4k", "32/8", 128, 16, 4096)
    yield replace(long, name="g4_b16_4k_window_lse", window_left=1023, lse=True)


def _blocks() -> Iterator[Shape]:
    whole = _shape("g4_b64_2k", "32/8", 128, 64, 2048)
    for block_size in (16, 1, 5, 8, 32, 64, 128):
        yield replace(whole, name=f"g4_b64_2k_block{block_size}", block_size=block_size)


def _growth() -> Iterator[Shape]:
    for kv_len in (4096, 16384, 65536, 262144, 1048576):
        yield _shape(f"one_{kv_len // 1024}k", "32/8", 128, 1, kv_len)
    for batch_size in (16, 32, 64, 128, 256, 512):
        yield _shape(f"batch_{batch_size}_2k", "32/8", 128, batch_size, 2048)


SETS: dict[str, tuple[Shape, ...]] = {
    "goals": tuple(_goals()),
    "more": tuple(_more()),
    "blocks": tuple(_blocks()),
    "growth": tuple(_growth()),
}
BY_NAME = {shape.name: shape for shapes in SETS.values() for shape in shapes}


def shape_name(text: str) -> str:
    """The name of a shape, as an argument of a command."""
    if text not in BY_NAME:
        raise argparse.ArgumentTypeError(f"no shape {text}; wanted one of {', '.join(BY_NAME)}")
    return text


def heat_map(head_dim: int, heads: str = "32/8") -> list[Shape]:
    """Batch sizes times lengths, the largest first, so that memory is taken once."""
    shapes = [
        _shape(f"heat_d{head_dim}_b{batch_size}_{kv_len}", heads, head_dim, batch_size, kv_len)
        for batch_size in BATCH_SIZES
        for kv_len in KV_LENS
    ]
    fitting = (shape for shape in shapes if shape.num_bytes <= HEAT_BYTES)
    return sorted(fitting, key=lambda shape: -shape.num_bytes)


def chosen(names: Iterable[str], sets: Iterable[str]) -> list[tuple[str, Shape]]:
    """(set, shape) for shapes by name and for sets in whole, each once; not of the heat map."""
    where = {shape.name: name for name, shapes in SETS.items() for shape in shapes}
    picked = [(where[name], BY_NAME[name]) for name in names]
    picked += [(name, shape) for name in sets for shape in SETS[name]]
    return list(dict.fromkeys(picked))
