"""A checked decode, planned and prepared: a call brings max_kv_len and the softmax scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.launch_config import LaunchConfig
from pyferrum_kv.errors import ArgumentError, NoVariant
from pyferrum_kv.int8_kv.checks import DeviceSlice
from pyferrum_kv.int8_kv.explain import ENTRIES, explain
from pyferrum_kv.int8_kv.plan import Budget, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.strides import Strides
from pyferrum_kv.int8_kv.workspace import Workspace
from pyferrum_kv.loader import PtxLoader

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext, CudaStream, PreparedLaunch

_NAME = "paged_decode_attention_int8"


@dataclass(frozen=True, slots=True)
class DecodeArguments:
    """Arguments that passed the checks, in the words of kernels/paged_decode_params.cuh."""

    q: DeviceSlice
    pools: tuple[DeviceSlice, DeviceSlice, DeviceSlice, DeviceSlice]
    block_table: DeviceSlice
    kv_lens: DeviceSlice | None
    out: DeviceSlice
    lse: DeviceSlice | None
    sinks: DeviceSlice | None
    alibi_slopes: DeviceSlice | None
    k_channel_factors: DeviceSlice | None
    q_strides: Strides
    out_strides: Strides
    kv_block_stride: int
    scale_block_stride: int
    block_table_stride: int
    num_blocks: int
    logit_softcap: float


class DecodeLaunch:
    """Prepared for one set of slices and sizes, whatever length up to `capacity` comes."""

    __slots__ = ("_changes", "_default_scale", "_launch", "_names", "capacity", "plan", "shape")

    def __init__(
        self,
        stream: CudaStream,
        shape: DecodeShape,
        arguments: DecodeArguments,
        *,
        capacity: int,
        workspace: Workspace | None = None,
        entry: str = "",
        num_splits: int = 0,
        names: tuple[str, str] = (_NAME, "max_kv_len"),
    ) -> None:
        """Plan for shape.max_kv_len; `capacity` is what the block table can hold.

        names: of the operation and its length, for messages
        """
        self.shape, self.capacity, self._names = shape, capacity, names
        self._default_scale = shape.head_dim**-0.5
        self.plan: DecodePlan | None = None
        self._launch: PreparedLaunch | None = None
        if not shape.batch_size:
            return
        context = stream.context
        budget = Budget.of(context, workspace)
        self.plan = explain(
            shape,
            budget,
            available=available_entries(context),
            entry=entry,
            num_splits=num_splits,
        )
        if workspace is None and self.plan.workspace_floats:
            workspace = Workspace.of(stream)
        function = PtxLoader.of(context).function(self.plan.entry)
        config = LaunchConfig(self.plan.grid_dim, self.plan.block_dim, self.plan.shared_mem_bytes)
        states = workspace.states if workspace and self.plan.workspace_floats else None
        counters = workspace.counters if workspace and self.plan.num_counters else None
        a = arguments
        self._launch = function.prepare(
            config,
            a.q,
            *a.pools,
            a.block_table,
            a.kv_lens,
            a.out,
            a.lse,
            states,
            counters,
            a.sinks,
            a.alibi_slopes,
            a.k_channel_factors,
            a.q_strides.token,
            a.q_strides.head,
            a.out_strides.token,
            a.out_strides.head,
            a.kv_block_stride,
            a.scale_block_stride,
            a.block_table_stride,
            shape.batch_size,
            shape.q_len,
            shape.num_q_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.block_size,
            a.num_blocks,
            shape.max_kv_len,
            self.plan.num_splits,
            shape.split_len,
            shape.window_left,
            self._default_scale,
            a.logit_softcap,
            stream=stream,
            keep_arguments=False,
        )
        order = [param.name for param in function.signature.params]
        self._changes = order.index("max_kv_len"), order.index("softmax_scale")

    def run(self, max_kv_len: int, softmax_scale: float | None) -> None:
        """Launch with this length and scale; what does not fit is refused."""
        if not 0 <= max_kv_len <= self.capacity:
            raise ArgumentError(
                f"{self._names[0]}: {self._names[1]} is {max_kv_len}; wanted 0 to {self.capacity},"
                f" what the block table holds in blocks of {self.shape.block_size}"
            )
        if self._launch is None:
            return
        if softmax_scale is None:
            softmax_scale = self._default_scale
        length_at, scale_at = self._changes
        self._launch.launch_with(((length_at, max_kv_len), (scale_at, softmax_scale)))


def available_entries(context: CudaContext) -> frozenset[str]:
    """The decode entries that the bundle has for this device and driver."""
    held: Any = context.attachments.get(available_entries)
    if held is None:
        loader = PtxLoader.of(context)
        held = frozenset(name for name in _known() if _serves(loader, name))
        context.attachments[available_entries] = held
    assert isinstance(held, frozenset)
    return held


def _known() -> list[str]:
    return [entry.entry(dtype) for entry in ENTRIES for dtype in ("float16", "bfloat16")]


def _serves(loader: PtxLoader, name: str) -> bool:
    if name not in loader.bundle.entries:
        return False
    try:
        loader.variant(name)
    except NoVariant:
        return False
    return True
