"""kv_cache_append: copy new tokens into their slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.dtypes import dtype_name
from pyferrum_kv.half_kv.entries import APPEND
from pyferrum_kv.int8_kv import debug as debugging
from pyferrum_kv.int8_kv.append import CheckedAppend
from pyferrum_kv.int8_kv.checks import MAX_INT32, DeviceSlice, check_int, check_slice
from pyferrum_kv.int8_kv.grid_launch import GridLaunch
from pyferrum_kv.int8_kv.launch_cache import keep, launches_of

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream
    from pyferrum_kv.half_kv.pools import HalfKvPools

_NAME = "kv_cache_append"
_THREADS = 256  # as in kernels/kv_cache_append.cu


def kv_cache_append(
    stream: CudaStream,
    k: DeviceSlice,
    v: DeviceSlice,
    pools: HalfKvPools,
    slot_mapping: DeviceSlice,
    *,
    num_tokens: int | None = None,
    k_strides: tuple[int, int] | None = None,
    v_strides: tuple[int, int] | None = None,
    debug: bool | None = None,
) -> None:
    """Copy new K and V tokens to their slots; asynchronous on `stream`.

    k, v:          the pools' type  [num_tokens, num_kv_heads, head_dim]
    slot_mapping:  int32            [num_tokens]   distinct; -1, or any outside, writes nothing

    num_tokens: as many as slot_mapping holds, unless given.
    k_strides, v_strides: elements from token to token and from head to head; None: contiguous.
    debug: check the slots on the device first, which waits for the stream; None: as the environment
    variable PYFERRUM_KV_DEBUG says.
    """
    key: tuple[Any, ...] | None = None
    try:
        key = (
            _NAME,
            *(k.token, v.token, slot_mapping.token),
            *pools.key,
            *(num_tokens, k_strides, v_strides),
        )
        held: HalfAppendLaunch | None = launches_of(stream).get(key)
    except (AttributeError, TypeError):  # what is wrong with which argument, the checks will say
        held = None
    if held is None:
        held = HalfAppendLaunch(
            stream, (k, v), pools, slot_mapping, num_tokens, (k_strides, v_strides)
        )
        keep(stream, key, held)
    if debug or (debug is None and debugging.ENABLED):
        debugging.check_slot_mapping(
            stream,
            slot_mapping,
            num_slots=pools.layout.num_slots,
            num_tokens=num_tokens,
            operation=_NAME,
        )
    held.run()


class HalfAppendLaunch(GridLaunch):
    """Checked and prepared for one set of slices and sizes."""

    __slots__ = ()

    def __init__(
        self,
        stream: CudaStream,
        given: tuple[DeviceSlice, DeviceSlice],
        pools: HalfKvPools,
        slot_mapping: DeviceSlice,
        num_tokens: int | None,
        given_strides: tuple[tuple[int, int] | None, tuple[int, int] | None],
    ) -> None:
        super().__init__()
        context, layout = stream.context, pools.layout
        checked = CheckedAppend.of(
            *(context, given, layout, pools.slices, slot_mapping, num_tokens, given_strides),
            names=("k", "v", "k_pool", "v_pool"),
            operation=_NAME,
        )
        num_tokens, (of_k, of_v) = checked.num_tokens, checked.strides
        if not num_tokens:
            return
        k, v = given
        check_slice(_NAME, "k", k, pools.k_pool.dtype, 0, context, why="the dtype of the pools")
        lanes = num_tokens * layout.num_kv_heads * layout.head_dim // 8
        grid = -(-lanes // _THREADS)
        check_int(_NAME, "num_tokens * num_kv_heads * head_dim / 2048", grid, 1, MAX_INT32)
        self.prepare(
            stream,
            APPEND[dtype_name(k.dtype)],
            grid,
            _THREADS,
            *(k, v, *pools.slices, slot_mapping, layout.num_slots),
            *(of_k.token, of_k.head, of_v.token, of_v.head, layout.kv_block_stride),
            *(num_tokens, layout.num_kv_heads, layout.head_dim, layout.block_size),
        )
