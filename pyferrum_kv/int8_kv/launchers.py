"""ferrum-kernels' own launchers: its names, argument order and meaning, on the default stream.

One sequence, contiguous tensors, as many blocks as the pools hold. They allocate nothing and never
wait: what a split needs is reserved for the stream at the first launch, or by preload(). A call
with slices and sizes seen before checks the length and the scale, and launches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyferrum_kv.dtypes import dtype_name
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv import debug
from pyferrum_kv.int8_kv.append import AppendLaunch
from pyferrum_kv.int8_kv.checks import (
    HALVES,
    INT8,
    INT32,
    MAX_KV_LEN,
    DeviceSlice,
    check_disjoint,
    check_head_dim,
    check_heads,
    check_int,
    check_slice,
)
from pyferrum_kv.int8_kv.launch_cache import LAUNCHES, keep
from pyferrum_kv.int8_kv.launch_decode import DecodeArguments, DecodeLaunch
from pyferrum_kv.int8_kv.layout import MAX_SLOTS, KvLayout
from pyferrum_kv.int8_kv.plan import DecodeShape
from pyferrum_kv.int8_kv.pools import check_pools
from pyferrum_kv.int8_kv.strides import Strides

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext, CudaStream

_DECODE = "launch_int8_paged_decode_attention"
_APPEND = "launch_int8_kv_cache_append"


def launch_int8_paged_decode_attention(
    ctx: CudaContext,
    q: DeviceSlice,
    k_pool: DeviceSlice,
    v_pool: DeviceSlice,
    k_scales_pool: DeviceSlice,
    v_scales_pool: DeviceSlice,
    block_table: DeviceSlice,
    output: DeviceSlice,
    num_q_heads: int,
    num_kv_heads: int,
    head_dim: int,
    valid_kv_len: int,
    block_size: int,
    scale: float,
) -> None:
    """Attend one query token to the first `valid_kv_len` tokens of its sequence.

    q, output:                     fp16, bf16  [num_q_heads, head_dim]
    k_pool, v_pool:                int8        [num_blocks, block_size, num_kv_heads, head_dim]
    k_scales_pool, v_scales_pool:  float16     [num_blocks, block_size, num_kv_heads]
    block_table:                   int32       [max_blocks_per_seq]
    scale:                         multiplies q . k, usually head_dim ** -0.5

    Asynchronous on ctx.default_stream(), which borrows every slice.
    """
    stream = ctx.default_stream()
    try:
        key = (
            q.token,
            k_pool.token,
            v_pool.token,
            k_scales_pool.token,
            v_scales_pool.token,
            block_table.token,
            output.token,
            num_q_heads,
            num_kv_heads,
            head_dim,
            block_size,
        )
        held: DecodeLaunch = stream.attachments[LAUNCHES][key]
    except (KeyError, AttributeError, TypeError):
        pools = (k_pool, v_pool, k_scales_pool, v_scales_pool)
        sizes = (num_q_heads, num_kv_heads, head_dim, block_size)
        held = _bind_decode(stream, q, pools, block_table, output, sizes)
    if debug.ENABLED:
        debug.check_block_table(
            stream,
            block_table,
            None,
            num_blocks=len(k_scales_pool) // (block_size * num_kv_heads),
            block_size=block_size,
            batch_size=1,
            max_kv_len=valid_kv_len,
            operation=_DECODE,
        )
    held.run(valid_kv_len, scale)


def _bind_decode(
    stream: CudaStream,
    q: DeviceSlice,
    pools: tuple[DeviceSlice, DeviceSlice, DeviceSlice, DeviceSlice],
    block_table: DeviceSlice,
    output: DeviceSlice,
    sizes: tuple[int, int, int, int],
) -> DecodeLaunch:
    """Check, plan for the longest sequence that the table can hold, prepare and keep."""
    context = stream.context
    num_q_heads, num_kv_heads = check_heads(_DECODE, sizes[0], sizes[1])
    head_dim = check_head_dim(_DECODE, sizes[2])
    block_size = check_int(_DECODE, "block_size", sizes[3], 1, MAX_SLOTS)
    layout = _layout(_DECODE, pools, num_kv_heads, head_dim, block_size, context)
    elements = num_q_heads * head_dim
    why = f"[{num_q_heads}, {head_dim}]"
    check_slice(_DECODE, "q", q, HALVES, elements, context, why=why)
    check_slice(_DECODE, "output", output, q.dtype, elements, context, why=why)
    check_slice(_DECODE, "block_table", block_table, INT32, 1, context)
    inputs = [("q", q), ("block_table", block_table), *zip(_POOL_NAMES, pools, strict=True)]
    check_disjoint(_DECODE, [("output", output)], inputs)
    row = Strides(elements, head_dim, elements)
    capacity = min(len(block_table) * block_size, MAX_KV_LEN)

    shape = DecodeShape(
        batch_size=1,
        num_q_heads=num_q_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        block_size=block_size,
        max_kv_len=capacity,
        dtype=dtype_name(q.dtype),
        q_alignment=min(row.alignment(q), row.alignment(output)),
        kv_alignment=layout.alignment(*(memory.device_ptr for memory in pools[:2])),
        scale_alignment=layout.scale_alignment(*(memory.device_ptr for memory in pools[2:])),
    )
    arguments = DecodeArguments(
        q=q,
        pools=pools,
        block_table=block_table,
        kv_lens=None,
        out=output,
        lse=None,
        sinks=None,
        alibi_slopes=None,
        k_channel_factors=None,
        q_strides=row,
        out_strides=row,
        kv_block_stride=layout.kv_block_stride,
        scale_block_stride=layout.scale_block_stride,
        block_table_stride=len(block_table),
        num_blocks=layout.num_blocks,
        logit_softcap=0.0,
    )
    launch = DecodeLaunch(
        stream, shape, arguments, capacity=capacity, names=(_DECODE, "valid_kv_len", "scale")
    )

    slices = (q, *pools, block_table, output)
    return keep(stream, (*(given.token for given in slices), *sizes), launch)


def launch_int8_kv_cache_append(
    ctx: CudaContext,
    k_in: DeviceSlice,
    v_in: DeviceSlice,
    k_out_pool: DeviceSlice,
    v_out_pool: DeviceSlice,
    k_scales_pool: DeviceSlice,
    v_scales_pool: DeviceSlice,
    slot_mapping: DeviceSlice,
    num_tokens: int,
    num_kv_heads: int,
    head_dim: int,
) -> None:
    """Quantise new K and V tokens and write them to their slots.

    k_in, v_in:                    fp16, bf16  [num_tokens, num_kv_heads, head_dim]
    k_out_pool, v_out_pool:        int8        [num_slots, num_kv_heads, head_dim]
    k_scales_pool, v_scales_pool:  float16     [num_slots, num_kv_heads]
    slot_mapping:                  int32       [num_tokens]   -1: skip the token

    Asynchronous on ctx.default_stream(), which borrows every slice.
    """
    stream = ctx.default_stream()
    try:
        key = (
            k_in.token,
            v_in.token,
            k_out_pool.token,
            v_out_pool.token,
            k_scales_pool.token,
            v_scales_pool.token,
            slot_mapping.token,
            num_tokens,
            num_kv_heads,
            head_dim,
        )
        held: AppendLaunch = stream.attachments[LAUNCHES][key]
    except (KeyError, AttributeError, TypeError):
        pools = (k_out_pool, v_out_pool, k_scales_pool, v_scales_pool)
        sizes = (num_tokens, num_kv_heads, head_dim)
        held = _bind_append(stream, k_in, v_in, pools, slot_mapping, sizes)
    if debug.ENABLED:
        debug.check_slot_mapping(
            stream,
            slot_mapping,
            num_slots=len(k_scales_pool) // num_kv_heads,
            num_tokens=num_tokens,
            operation=_APPEND,
        )
    held.run()


def _bind_append(
    stream: CudaStream,
    k_in: DeviceSlice,
    v_in: DeviceSlice,
    pools: tuple[DeviceSlice, DeviceSlice, DeviceSlice, DeviceSlice],
    slot_mapping: DeviceSlice,
    sizes: tuple[int, int, int],
) -> AppendLaunch:
    """Check, prepare and keep. Slots are flat here: a block is one token."""
    num_kv_heads = check_int(_APPEND, "num_kv_heads", sizes[1], 1, MAX_SLOTS)
    head_dim = check_head_dim(_APPEND, sizes[2])
    names = ("k_out_pool", "v_out_pool", "k_scales_pool", "v_scales_pool")
    layout = _layout(_APPEND, pools, num_kv_heads, head_dim, 1, stream.context, names)

    launch = AppendLaunch(
        stream,
        k_in,
        v_in,
        layout,
        pools,
        slot_mapping,
        num_tokens=sizes[0],
        names=("k_in", "v_in", *names),
        operation=_APPEND,
    )
    slices = (k_in, v_in, *pools, slot_mapping)
    return keep(stream, (*(given.token for given in slices), *sizes), launch)


_POOL_NAMES = ("k_pool", "v_pool", "k_scales_pool", "v_scales_pool")


def _layout(
    operation: str,
    pools: tuple[DeviceSlice, DeviceSlice, DeviceSlice, DeviceSlice],
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
    context: CudaContext,
    names: tuple[str, str, str, str] = _POOL_NAMES,
) -> KvLayout:
    """As many blocks as the first pool holds; the others must hold as many."""
    block = block_size * num_kv_heads * head_dim
    check_slice(operation, names[0], pools[0], INT8, block, context, why="one block")
    if len(pools[0]) % block:
        raise ArgumentError(
            f"{operation}: {names[0]} has {len(pools[0])} elements; wanted whole blocks of {block},"
            f" [{block_size}, {num_kv_heads}, {head_dim}]"
        )
    layout = KvLayout(len(pools[0]) // block, block_size, num_kv_heads, head_dim)
    check_pools(operation, layout, pools, context, names)
    return layout
