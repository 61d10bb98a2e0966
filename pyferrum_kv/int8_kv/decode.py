"""paged_decode_attention_int8: one decode step for a batch of ragged sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pyferrum_kv.dtypes import dtype_name
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv import debug as debugging
from pyferrum_kv.int8_kv.checks import (
    FLOAT32,
    HALVES,
    INT32,
    MAX_INT32,
    MAX_KV_LEN,
    DeviceSlice,
    check_disjoint,
    check_float,
    check_heads,
    check_int,
    check_slice,
)
from pyferrum_kv.int8_kv.launch_cache import LAUNCHES, keep
from pyferrum_kv.int8_kv.launch_decode import DecodeArguments, DecodeLaunch
from pyferrum_kv.int8_kv.plan import DecodeShape
from pyferrum_kv.int8_kv.split import DETERMINISTIC_SPLIT_LEN
from pyferrum_kv.int8_kv.strides import Strides
from pyferrum_kv.int8_kv.workspace import Workspace

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream
    from pyferrum_kv.int8_kv.layout import KvLayout
    from pyferrum_kv.int8_kv.pools import Int8KvPools

_NAME = "paged_decode_attention_int8"
_POOL_NAMES = ("k_pool", "v_pool", "k_scales", "v_scales")


class KvPools(Protocol):
    """What a decode asks of pools: their layout, and k_pool, v_pool and what scales there are."""

    @property
    def layout(self) -> KvLayout: ...
    @property
    def slices(self) -> tuple[DeviceSlice, ...]: ...


def paged_decode_attention_int8(
    stream: CudaStream,
    q: DeviceSlice,
    pools: Int8KvPools,
    block_table: DeviceSlice,
    kv_lens: DeviceSlice | None,
    out: DeviceSlice,
    *,
    num_q_heads: int,
    max_kv_len: int,
    batch_size: int | None = None,
    q_len: int = 1,
    softmax_scale: float | None = None,
    lse: DeviceSlice | None = None,
    window_left: int = -1,
    logit_softcap: float = 0.0,
    sinks: DeviceSlice | None = None,
    alibi_slopes: DeviceSlice | None = None,
    k_channel_factors: DeviceSlice | None = None,
    q_strides: tuple[int, int] | None = None,
    out_strides: tuple[int, int] | None = None,
    block_table_stride: int | None = None,
    deterministic: bool = False,
    workspace: Workspace | None = None,
    entry: str = "",
    num_splits: int = 0,
    debug: bool | None = None,
) -> None:
    """Attend each query row to its sequence; asynchronous on `stream`, which borrows every slice.

    q, out:             fp16, bf16  [batch_size * q_len, num_q_heads, head_dim]
    block_table:        int32       [batch_size, max_blocks_per_seq]
    kv_lens:            int32       [batch_size]; None: each sequence has max_kv_len tokens
    lse:                float32     [batch_size * q_len, num_q_heads], written; -inf for no token
    sinks, alibi_slopes: float32    [num_q_heads]
    k_channel_factors:  float32     [num_kv_heads, head_dim], multiplied into q

    max_kv_len bounds kv_lens and is all that the launch knows of them, so it may be captured and
    replayed with other lengths. Query token i of q_len stands at kv_len - q_len + i and sees what
    is not after it, and with window_left >= 0 at most window_left tokens before it.
    q_strides, out_strides: elements from token to token and from head to head.
    deterministic: the same bits for a sequence alone or in any batch; else the same bits on repeat.
    entry, num_splits: override what int8_kv.explain() would choose; a cluster cuts into the power
    of two at or below num_splits, and at most as many parts as it may have CTAs.
    debug: check tables and lengths on the device first, which waits for the stream; None: as the
    environment variable PYFERRUM_KV_DEBUG says.
    """
    key: tuple[Any, ...] | None = None
    try:
        key = (
            q.token,
            out.token,
            block_table.token,
            kv_lens if kv_lens is None else kv_lens.token,
            lse if lse is None else lse.token,
            sinks if sinks is None else sinks.token,
            alibi_slopes if alibi_slopes is None else alibi_slopes.token,
            k_channel_factors if k_channel_factors is None else k_channel_factors.token,
            pools.k_pool.token,
            pools.v_pool.token,
            pools.k_scales.token,
            pools.v_scales.token,
            pools.layout_key,
            num_q_heads,
            batch_size,
            q_len,
            window_left,
            logit_softcap,
            q_strides,
            out_strides,
            block_table_stride,
            deterministic,
            entry,
            num_splits,
            workspace if workspace is None else workspace.states.token,
            max_kv_len.bit_length(),
        )
        held: DecodeLaunch | None = stream.attachments[LAUNCHES][key]
    except (AttributeError, KeyError, TypeError):  # what is wrong with what, the checks will say
        held = None
    if held is None:
        shape, arguments, capacity = checked_decode(
            _NAME,
            stream,
            q,
            pools,
            block_table,
            kv_lens,
            out,
            num_q_heads=num_q_heads,
            max_kv_len=max_kv_len,
            batch_size=batch_size,
            q_len=q_len,
            lse=lse,
            window_left=window_left,
            logit_softcap=logit_softcap,
            sinks=sinks,
            alibi_slopes=alibi_slopes,
            k_channel_factors=k_channel_factors,
            q_strides=q_strides,
            out_strides=out_strides,
            block_table_stride=block_table_stride,
            deterministic=deterministic,
        )
        held = DecodeLaunch(
            stream,
            shape,
            arguments,
            capacity=capacity,
            workspace=workspace,
            entry=entry,
            num_splits=num_splits,
        )
        keep(stream, key, held)
    if debug or (debug is None and debugging.ENABLED):
        debugging.check_block_table(
            stream,
            block_table,
            kv_lens,
            num_blocks=pools.layout.num_blocks,
            block_size=pools.layout.block_size,
            batch_size=held.shape.batch_size,
            max_kv_len=max_kv_len,
            block_table_stride=block_table_stride,
        )
    held.run(max_kv_len, softmax_scale)


def checked_decode(
    operation: str,
    stream: CudaStream,
    q: DeviceSlice,
    pools: KvPools,
    block_table: DeviceSlice,
    kv_lens: DeviceSlice | None,
    out: DeviceSlice,
    **given: Any,
) -> tuple[DecodeShape, DecodeArguments, int]:
    """Everything that can be known before the launch, or the error that says what is wrong."""
    layout, context = pools.layout, stream.context
    num_q_heads, _ = check_heads(operation, given["num_q_heads"], layout.num_kv_heads)
    q_len = check_int(operation, "q_len", given["q_len"], 1, 8)
    max_kv_len = check_int(operation, "max_kv_len", given["max_kv_len"], 0, MAX_KV_LEN)
    window_left = check_int(operation, "window_left", given["window_left"], -1, MAX_INT32)
    softcap = check_float(operation, "logit_softcap", given["logit_softcap"], 0.0, 3e38)
    check_slice(operation, "q", q, HALVES, 0, context)
    check_slice(operation, "out", out, q.dtype, 0, context, why="the dtype of q")
    row = num_q_heads * q_len * layout.head_dim
    batch_size = _batch_size(operation, given["batch_size"], kv_lens, q, row)
    rows = batch_size * q_len
    shape = (rows, num_q_heads, layout.head_dim)
    q_strides = Strides.checked(operation, "q_strides", given["q_strides"], shape)
    out_strides = Strides.checked(
        operation, "out_strides", given["out_strides"], shape, unique=True
    )
    check_slice(operation, "q", q, HALVES, q_strides.num_elements, context, why=str(shape))
    check_slice(operation, "out", out, q.dtype, out_strides.num_elements, context, why=str(shape))

    blocks = layout.blocks_for(max_kv_len)
    check_slice(operation, "block_table", block_table, INT32, 0, context)
    stride = given["block_table_stride"]
    if stride is None:
        stride = len(block_table) // max(batch_size, 1)
    stride = check_int(operation, "block_table_stride", stride, 0, 2**62)
    if batch_size > 1 and stride < blocks:
        raise ArgumentError(
            f"{operation}: block_table has {stride} entries a sequence; wanted at least {blocks}"
            f" for max_kv_len {max_kv_len} in blocks of {layout.block_size}"
        )
    entries = stride if batch_size > 1 else len(block_table)
    capacity = min(entries * layout.block_size, MAX_KV_LEN)
    needed = (batch_size - 1) * stride + blocks if batch_size else 0
    why = f"{blocks} blocks for max_kv_len {max_kv_len}, batch_size {batch_size}"
    check_slice(operation, "block_table", block_table, INT32, needed, context, why=why)
    optional = (
        ("kv_lens", kv_lens, INT32, batch_size),
        ("lse", given["lse"], FLOAT32, rows * num_q_heads),
        ("sinks", given["sinks"], FLOAT32, num_q_heads),
        ("alibi_slopes", given["alibi_slopes"], FLOAT32, num_q_heads),
        (
            "k_channel_factors",
            given["k_channel_factors"],
            FLOAT32,
            layout.num_kv_heads * layout.head_dim,
        ),
    )
    for name, memory, dtype, size in optional:
        if memory is not None:
            check_slice(operation, name, memory, dtype, size, context)
    named = list(zip(_POOL_NAMES, pools.slices, strict=False))
    for name, memory in named:
        check_slice(operation, name, memory, memory.dtype, 0, context)
    inputs: list[tuple[str, DeviceSlice | None]] = [("q", q), ("block_table", block_table)]
    inputs += [(name, memory) for name, memory, _, _ in optional if name != "lse"]
    inputs += named
    check_disjoint(operation, (("out", out), ("lse", given["lse"])), inputs)

    decode_shape = DecodeShape(
        batch_size=batch_size,
        num_q_heads=num_q_heads,
        num_kv_heads=layout.num_kv_heads,
        head_dim=layout.head_dim,
        block_size=layout.block_size,
        max_kv_len=min((1 << max_kv_len.bit_length()) - 1, capacity),  # a plan a power of 2
        q_len=q_len,
        dtype=dtype_name(q.dtype),
        window_left=window_left,
        split_len=DETERMINISTIC_SPLIT_LEN if given["deterministic"] else 0,
        q_alignment=min(q_strides.alignment(q), out_strides.alignment(out)),
        kv_alignment=layout.alignment(*(memory.device_ptr for memory in pools.slices[:2])),
        scale_alignment=layout.scale_alignment(*(memory.device_ptr for memory in pools.slices[2:])),
        has_k_channel_factors=given["k_channel_factors"] is not None,
    )
    arguments = DecodeArguments(
        q=q,
        pools=pools.slices,
        block_table=block_table,
        kv_lens=kv_lens,
        out=out,
        lse=given["lse"],
        sinks=given["sinks"],
        alibi_slopes=given["alibi_slopes"],
        k_channel_factors=given["k_channel_factors"],
        q_strides=q_strides,
        out_strides=out_strides,
        kv_block_stride=layout.kv_block_stride,
        scale_block_stride=layout.scale_block_stride if len(named) > 2 else None,
        block_table_stride=stride,
        num_blocks=layout.num_blocks,
        logit_softcap=softcap,
    )
    return decode_shape, arguments, capacity


def _batch_size(
    operation: str,
    given: int | None,
    kv_lens: DeviceSlice | None,
    q: DeviceSlice,
    elements_a_sequence: int,
) -> int:
    """As given, or one a length, or as many as q holds."""
    if given is None:
        if kv_lens is not None:
            given = len(kv_lens)
        else:
            given = len(q) // elements_a_sequence
    return check_int(operation, "batch_size", given, 0, MAX_INT32)
