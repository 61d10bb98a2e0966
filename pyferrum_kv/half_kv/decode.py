"""paged_decode_attention: one decode step for a batch of ragged sequences, fp16 or bf16 cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.half_kv.entries import ENTRIES, OPERATION
from pyferrum_kv.int8_kv import debug as debugging
from pyferrum_kv.int8_kv.checks import DeviceSlice, check_slice
from pyferrum_kv.int8_kv.decode import checked_decode
from pyferrum_kv.int8_kv.launch_cache import keep, launches_of
from pyferrum_kv.int8_kv.launch_decode import DecodeLaunch

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream
    from pyferrum_kv.half_kv.pools import HalfKvPools
    from pyferrum_kv.int8_kv.workspace import Workspace


def paged_decode_attention(
    stream: CudaStream,
    q: DeviceSlice,
    pools: HalfKvPools,
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

    q, out:             the pools' type  [batch_size * q_len, num_q_heads, head_dim]
    block_table:        int32            [batch_size, max_blocks_per_seq]
    kv_lens:            int32            [batch_size]; None: each sequence has max_kv_len tokens
    lse:                float32          [batch_size * q_len, num_q_heads], written; -inf for none
    sinks, alibi_slopes: float32         [num_q_heads]
    k_channel_factors:  float32          [num_kv_heads, head_dim], multiplied into q

    Every option is int8_kv.paged_decode_attention_int8's.
    """
    options: tuple[DeviceSlice | None, ...] = (kv_lens, lse, sinks, alibi_slopes, k_channel_factors)
    key: tuple[Any, ...] | None = None
    try:
        states = None if workspace is None else workspace.states
        key = (
            OPERATION,
            *(q.token, out.token, block_table.token),
            *(-1 if given is None else given.token for given in (*options, states)),
            *pools.key,
            *(num_q_heads, batch_size, q_len, window_left, logit_softcap, q_strides, out_strides),
            *(block_table_stride, deterministic, entry, num_splits, max_kv_len.bit_length()),
        )
        held: DecodeLaunch | None = launches_of(stream).get(key)
    except (AttributeError, TypeError):  # what is wrong with which argument, the checks will say
        held = None
    if held is None:
        shape, arguments, capacity = checked_decode(
            OPERATION,
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
        dtype = pools.k_pool.dtype
        check_slice(OPERATION, "q", q, dtype, 0, stream.context, why="the dtype of the pools")
        held = DecodeLaunch(
            stream,
            shape,
            arguments,
            capacity=capacity,
            workspace=workspace,
            entry=entry,
            num_splits=num_splits,
            names=(OPERATION, "max_kv_len", "softmax_scale"),
            entries=ENTRIES,
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
            operation=OPERATION,
        )
    held.run(max_kv_len, softmax_scale)
