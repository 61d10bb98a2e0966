"""A checked decode, planned and prepared: a call brings max_kv_len and the softmax scale."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.launch_config import LaunchConfig, checked_config
from pyferrum_kv.driver.prepared import PreparedLaunch
from pyferrum_kv.driver.tensor_map import encode_tensor_map
from pyferrum_kv.driver.turn import Turn
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv.checks import DeviceSlice, check_float
from pyferrum_kv.int8_kv.explain import ENTRIES, explain
from pyferrum_kv.int8_kv.plan import Budget, DecodeEntry, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_tma import TILE_TOKENS, chunk_bytes
from pyferrum_kv.int8_kv.strides import Strides
from pyferrum_kv.int8_kv.workspace import Workspace
from pyferrum_kv.loader import PtxLoader

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext, CudaStream

_NAME = "paged_decode_attention_int8"
_DTYPES = ("float16", "bfloat16")
_FLOAT32 = struct.Struct("<f")


@dataclass(frozen=True, slots=True)
class DecodeArguments:
    """Arguments that passed the checks, in the words of kernels/paged_decode_params.cuh."""

    q: DeviceSlice
    pools: tuple[DeviceSlice, ...]  # k_pool, v_pool, and the scales of a quantised cache
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
    scale_block_stride: int | None  # None: there are no scales
    block_table_stride: int
    num_blocks: int
    logit_softcap: float


class DecodeLaunch:
    """Prepared for one set of slices and sizes, whatever length up to `capacity` comes."""

    __slots__ = (
        "_buffer",
        "_default_scale",
        "_launch",
        "_length",
        "_names",
        "_scale",
        "_scale_at",
        "_turn",
        "capacity",
        "plan",
        "shape",
    )

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
        names: tuple[str, str, str] = (_NAME, "max_kv_len", "softmax_scale"),
        entries: tuple[DecodeEntry, ...] = ENTRIES,
    ) -> None:
        """Plan for shape.max_kv_len; `capacity` is what the block table can hold.

        names: of the operation, its length and its scale, for messages
        entries: to choose among
        """
        self.shape, self.capacity, self._names = shape, capacity, names
        self._default_scale = shape.head_dim**-0.5
        self._turn = Turn()
        self.plan: DecodePlan | None = None
        self._launch: PreparedLaunch | None = None
        if not shape.batch_size:
            return
        context = stream.context
        self.plan = plan = explain(
            shape,
            Budget.of(context, workspace),
            available=available_entries(context, entries),
            entry=entry,
            num_splits=num_splits,
            entries=entries,
        )
        if workspace is None and plan.workspace_floats:
            workspace = Workspace.of(stream, names[0])
        function = PtxLoader.of(context).function(plan.entry)
        config = LaunchConfig(
            plan.grid_dim,
            plan.block_dim,
            plan.shared_mem_bytes,
            cluster_dim=plan.cluster_dim,
            programmatic=plan.programmatic and _may_overlap(context),
        )
        checked_config(function, config)
        block = function.bind(_in_order(shape, arguments, plan, workspace))
        offsets = {param.name: param.offset for param in function.signature.params}
        self._buffer = block.buffer
        length_at, self._scale_at = offsets["max_kv_len"], offsets["softmax_scale"]
        # an int32 to assign to, which a number's type and range are checked by
        self._length = memoryview(block.buffer)[length_at : length_at + 4].cast("i")
        self._scale = self._default_scale
        self._launch = PreparedLaunch(function, config, block, stream, keep_arguments=False)

    def run(self, max_kv_len: int, softmax_scale: float | None) -> None:
        """Launch with this length and scale; what does not fit is refused. Safe from any thread."""
        if softmax_scale is None:
            softmax_scale = self._default_scale
        turn = self._turn  # the driver reads the block during the call
        try:
            turn.pop()
        except IndexError:
            turn.wait()
        try:
            if not 0 <= max_kv_len <= self.capacity:
                raise OverflowError
            if self._launch is None:
                return
            self._length[0] = max_kv_len
            if softmax_scale != self._scale:
                self._scale = nan  # pack_into() clears the place before it refuses
                _FLOAT32.pack_into(self._buffer, self._scale_at, softmax_scale)
                self._scale = softmax_scale
        except (TypeError, ValueError, OverflowError, struct.error):
            raise self._refusal(max_kv_len, softmax_scale) from None
        else:
            self._launch.launch()
        finally:
            turn.append(None)

    def _refusal(self, max_kv_len: Any, softmax_scale: Any) -> ArgumentError:
        """One of the two does not fit: say which, and what would."""
        operation, length, scale = self._names
        if isinstance(max_kv_len, int) and 0 <= max_kv_len <= self.capacity:
            try:
                check_float(operation, scale, softmax_scale, -3.4e38, 3.4e38)
            except ArgumentError as error:
                return error
        return ArgumentError(
            f"{operation}: {length} is {max_kv_len!r}; wanted an integer 0 to {self.capacity}, what"
            f" the block table holds in blocks of {self.shape.block_size}"
        )


def _in_order(
    shape: DecodeShape, given: DecodeArguments, plan: DecodePlan, workspace: Workspace | None
) -> tuple[Any, ...]:
    """The arguments in the order of kernels/paged_decode_params.cuh."""
    return (
        given.q,
        *given.pools,
        given.block_table,
        given.kv_lens,
        given.out,
        given.lse,
        workspace.states if workspace and plan.workspace_floats else None,
        workspace.counters if workspace and plan.num_counters else None,
        given.sinks,
        given.alibi_slopes,
        given.k_channel_factors,
        given.q_strides.token,
        given.q_strides.head,
        given.out_strides.token,
        given.out_strides.head,
        given.kv_block_stride,
        *(() if given.scale_block_stride is None else (given.scale_block_stride,)),
        given.block_table_stride,
        shape.batch_size,
        shape.q_len,
        shape.num_q_heads,
        shape.num_kv_heads,
        shape.head_dim,
        shape.block_size,
        given.num_blocks,
        shape.max_kv_len,
        plan.num_splits,
        shape.split_len,
        shape.window_left,
        shape.head_dim**-0.5,
        given.logit_softcap,
        *_of_tensor_maps(shape, given, plan),
    )


def _of_tensor_maps(
    shape: DecodeShape, given: DecodeArguments, plan: DecodePlan
) -> tuple[Any, ...]:
    """What kernels/paged_decode_tma.cuh adds to the list, for an entry that takes it."""
    if not plan.box_heads:
        return ()
    chunk, swizzle = chunk_bytes(shape.head_dim)
    chunks = shape.head_dim // chunk
    token_bytes = shape.num_kv_heads * shape.head_dim
    maps = (
        encode_tensor_map(
            pool,
            dims=(chunk, shape.block_size, chunks, shape.num_kv_heads, given.num_blocks),
            strides_bytes=(token_bytes, chunk, shape.head_dim, given.kv_block_stride),
            box=(chunk, TILE_TOKENS, chunks, plan.box_heads, 1),
            swizzle_bytes=swizzle,
        )
        for pool in given.pools[:2]
    )
    return plan.box_heads.bit_length() - 1, plan.ring_depth, *maps


def _may_overlap(context: CudaContext) -> bool:
    """Whether programmatic dependent launch is to be had, in a captured graph too."""
    return context.compute_capability >= (9, 0) and context.api.version >= 12030


def available_entries(
    context: CudaContext, entries: tuple[DecodeEntry, ...] = ENTRIES
) -> frozenset[str]:
    """Those of the decode entries that the bundle has and this device can run."""
    key = (available_entries, entries)
    held: Any = context.attachments.get(key)
    if held is None:
        loader = PtxLoader.of(context)
        known = (entry.entry(dtype) for entry in entries for dtype in _DTYPES)
        held = frozenset(n for n in known if n in loader.bundle.entries and loader.serves(n))
        context.attachments[key] = held
    assert isinstance(held, frozenset)
    return held
