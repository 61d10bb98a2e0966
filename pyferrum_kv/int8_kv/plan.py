"""What a decode launch is decided from, and what is decided: plain data, no device.

A DecodeEntry says whether it serves a DecodeShape and plans the launch within a Budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext
    from pyferrum_kv.int8_kv.workspace import Workspace

MAX_GRID_X = 2**31 - 1
NUM_COUNTERS = 1 << 16
FLOATS_AN_SM = 1 << 16
"""256 KiB an SM (33 MiB on an H200): the rows that CTAs on all SMs hold at a time, twice."""
SIXTEEN_A_CLUSTER = (9, 10)
"""Compute capabilities, their first numbers, where a cluster may have more than the 8 CTAs that it
may have everywhere (CUDA's tuning guides for Hopper and Blackwell)."""
STATE_PADDING = 4
"""Floats of a split's state beside o[head_dim]: m, l and two unused, so that rows stay aligned."""


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """The sizes of a decode call; lengths and tables stay on the device."""

    batch_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    max_kv_len: int
    q_len: int = 1
    dtype: str = "float16"  # of q and out: float16 or bfloat16
    window_left: int = -1
    split_len: int = 0  # > 0: deterministic, tokens of a split
    q_alignment: int = 16  # bytes that divide address and strides of q and of out, up to 16
    kv_alignment: int = 16  # bytes that divide address and block stride of k_pool and v_pool
    scale_alignment: int = 16  # likewise of k_scales and v_scales
    has_k_channel_factors: bool = False

    @property
    def num_rows(self) -> int:
        """Query rows that share one KV head of one sequence."""
        return self.num_q_heads // self.num_kv_heads * self.q_len

    @property
    def max_visible(self) -> int:
        """Most tokens of a sequence that any row sees."""
        if self.window_left < 0:
            return self.max_kv_len
        return min(self.max_kv_len, self.window_left + self.q_len)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a plan may use: the device's SMs and what they have, and the workspace there is."""

    num_sms: int
    workspace_floats: int
    num_counters: int
    shared_bytes: int = 232_448  # that a CTA may have; as a Hopper has
    max_cluster: int = 16  # CTAs

    @classmethod
    def of(cls, context: CudaContext, workspace: Workspace | None = None) -> Budget:
        """Of a workspace, or of the one that a stream of this context reserves."""
        held = cls.reserved(context.attribute("MULTIPROCESSOR_COUNT"))
        if workspace is not None:
            held = cls(held.num_sms, len(workspace.states), len(workspace.counters))
        return replace(
            held,
            shared_bytes=context.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
            max_cluster=16 if context.compute_capability[0] in SIXTEEN_A_CLUSTER else 8,
        )

    @classmethod
    def reserved(cls, num_sms: int) -> Budget:
        """Of the workspace that a stream reserves on a device with `num_sms` SMs."""
        return cls(num_sms, num_sms * FLOATS_AN_SM, NUM_COUNTERS)


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """One launch, ready but for its arguments. `str(plan)` tells it to a person."""

    entry: str
    grid_dim: tuple[int, int, int]
    block_dim: tuple[int, int, int]
    shared_mem_bytes: int
    num_splits: int
    split_len: int
    workspace_floats: int  # used of the budget
    num_counters: int  # likewise
    reason: str
    programmatic: bool = False  # may begin before the launch ahead of it ends; it waits by itself
    cluster_dim: tuple[int, int, int] | None = None
    unfit: str = ""  # why another entry is likely quicker; taken all the same if asked for
    box_heads: int = 0  # KV heads of a box of the tensor maps; 0: the entry takes no tensor maps
    ring_depth: int = 0  # slabs on their way to each stripe of a CTA, for an entry with tensor maps
    passed_over: tuple[tuple[str, str], ...] = ()  # entries tried before, and why not

    def __str__(self) -> str:
        cut = (
            f"splits of {self.split_len} tokens" if self.split_len else f"{self.num_splits} splits"
        )
        lines = [
            f"{self.entry}: {self.reason}",
            f"  grid {self.grid_dim} block {self.block_dim} shared {self.shared_mem_bytes} bytes",
            f"  {cut}; workspace {4 * self.workspace_floats} bytes, {self.num_counters} counters",
        ]
        lines += [f"  not {entry}: {why}" for entry, why in self.passed_over]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DecodeEntry:
    """A family of entries, `stem` for float16 and `stem`_bf16.

    refuses(shape) says why this entry does not serve the shape, or "" where it does.
    plan(entry, shape, budget, num_splits) plans it; num_splits 0 leaves the choice to it.
    """

    stem: str
    refuses: Callable[[DecodeShape], str]
    plan: Callable[[str, DecodeShape, Budget, int], DecodePlan]

    def entry(self, dtype: str) -> str:
        return self.stem if dtype == "float16" else f"{self.stem}_bf16"
