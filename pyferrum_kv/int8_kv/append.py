"""int8_kv_cache_append: quantise new tokens into their slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyferrum_kv.dtypes import dtype_name
from pyferrum_kv.int8_kv import debug as debugging
from pyferrum_kv.int8_kv.checks import (
    HALVES,
    INT32,
    MAX_INT32,
    DeviceSlice,
    check_disjoint,
    check_int,
    check_slice,
)
from pyferrum_kv.int8_kv.grid_launch import GridLaunch
from pyferrum_kv.int8_kv.launch_cache import LAUNCHES, keep
from pyferrum_kv.int8_kv.strides import Strides

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext, CudaStream
    from pyferrum_kv.int8_kv.layout import KvLayout
    from pyferrum_kv.int8_kv.pools import Int8KvPools

_NAME = "int8_kv_cache_append"
APPEND_ENTRIES = {"float16": _NAME, "bfloat16": f"{_NAME}_bf16"}
THREADS = 128  # as in kernels/int8_kv_cache_append.cu, and _rotary.cu
_LANE_ELEMENTS = 16  # of a row, at most
NAMES = ("k", "v", "k_pool", "v_pool", "k_scales", "v_scales")

Pools = tuple[DeviceSlice, ...]


def int8_kv_cache_append(
    stream: CudaStream,
    k: DeviceSlice,
    v: DeviceSlice,
    pools: Int8KvPools,
    slot_mapping: DeviceSlice,
    *,
    num_tokens: int | None = None,
    k_strides: tuple[int, int] | None = None,
    v_strides: tuple[int, int] | None = None,
    debug: bool | None = None,
) -> None:
    """Quantise new K and V tokens and write them to their slots; asynchronous on `stream`.

    k, v:          fp16, bf16  [num_tokens, num_kv_heads, head_dim]   read even where skipped
    slot_mapping:  int32       [num_tokens]   distinct; -1, or any outside the pool, writes nothing

    num_tokens: as many as slot_mapping holds, unless given.
    k_strides, v_strides: elements from token to token and from head to head; None: contiguous.
    debug: check the slots on the device first, which waits for the stream; None: as the environment
    variable PYFERRUM_KV_DEBUG says.
    """
    key: tuple[Any, ...] | None = None
    try:
        key = (
            k.token,
            v.token,
            slot_mapping.token,
            pools.k_pool.token,
            pools.v_pool.token,
            pools.k_scales.token,
            pools.v_scales.token,
            pools.layout_key,
            num_tokens,
            k_strides,
            v_strides,
        )
        held: AppendLaunch | None = stream.attachments[LAUNCHES][key]
    except (AttributeError, KeyError, TypeError):  # what is wrong with what, the checks will say
        held = None
    if held is None:
        held = AppendLaunch(
            stream,
            k,
            v,
            pools.layout,
            pools.slices,
            slot_mapping,
            num_tokens=num_tokens,
            k_strides=k_strides,
            v_strides=v_strides,
        )
        keep(stream, key, held)
    if debug or (debug is None and debugging.ENABLED):
        num_slots = pools.layout.num_slots
        debugging.check_slot_mapping(
            stream, slot_mapping, num_slots=num_slots, num_tokens=num_tokens
        )
    held.run()


class AppendLaunch(GridLaunch):
    """Checked and prepared for one set of slices and sizes."""

    __slots__ = ()

    def __init__(
        self,
        stream: CudaStream,
        k: DeviceSlice,
        v: DeviceSlice,
        layout: KvLayout,
        pools: Pools,
        slot_mapping: DeviceSlice,
        *,
        num_tokens: int | None = None,
        k_strides: tuple[int, int] | None = None,
        v_strides: tuple[int, int] | None = None,
        names: tuple[str, ...] = NAMES,
        operation: str = _NAME,
    ) -> None:
        super().__init__()
        checked = CheckedAppend.of(
            stream.context,
            (k, v),
            layout,
            pools,
            slot_mapping,
            num_tokens,
            (k_strides, v_strides),
            names=names,
            operation=operation,
        )
        if not checked.num_tokens:
            return
        grid = num_ctas(
            operation, checked.num_tokens, "num_kv_heads", layout.num_kv_heads, layout.head_dim
        )
        self.prepare(
            stream,
            APPEND_ENTRIES[dtype_name(k.dtype)],
            grid,
            THREADS,
            *checked.arguments,
        )


class CheckedAppend(NamedTuple):
    """Arguments that passed the checks, in the order of INT8_KV_CACHE_APPEND_PARAMS."""

    num_tokens: int
    strides: tuple[Strides, Strides]  # of K and V
    arguments: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        context: CudaContext,
        given: tuple[DeviceSlice, DeviceSlice],
        layout: KvLayout,
        pools: Pools,
        slot_mapping: DeviceSlice,
        num_tokens: int | None,
        given_strides: tuple[tuple[int, int] | None, tuple[int, int] | None],
        *,
        names: tuple[str, ...] = NAMES,
        operation: str = _NAME,
    ) -> CheckedAppend:
        check_slice(operation, "slot_mapping", slot_mapping, INT32, 0, context)
        if num_tokens is None:
            num_tokens = len(slot_mapping)
        num_tokens = check_int(operation, "num_tokens", num_tokens, 0, MAX_INT32)
        why = f"num_tokens {num_tokens}"
        check_slice(operation, "slot_mapping", slot_mapping, INT32, num_tokens, context, why=why)
        shape = (num_tokens, layout.num_kv_heads, layout.head_dim)
        strides = []
        for name, asked, memory in zip(names[:2], given_strides, given, strict=True):
            checked = Strides.checked(operation, f"{name[0]}_strides", asked, shape)
            size = checked.num_elements
            check_slice(operation, name, memory, HALVES, size, context, why=str(list(shape)))
            strides.append(checked)
        k, v = given
        check_slice(operation, names[1], v, k.dtype, 0, context, why=f"the dtype of {names[0]}")
        for name, memory in zip(names[2:], pools, strict=True):
            check_slice(operation, name, memory, memory.dtype, 0, context)
        inputs = ((names[0], k), (names[1], v), ("slot_mapping", slot_mapping))
        check_disjoint(operation, zip(names[2:], pools, strict=True), inputs)
        of_k, of_v = strides
        arguments = (
            *(k, v, *pools, slot_mapping, layout.num_slots),
            *(of_k.token, of_k.head, of_v.token, of_v.head),
            *(layout.kv_block_stride, layout.scale_block_stride),
            *(num_tokens, layout.num_kv_heads, layout.head_dim, layout.block_size),
        )
        return cls(num_tokens, (of_k, of_v), arguments)


def num_ctas(operation: str, num_tokens: int, name: str, num_heads: int, head_dim: int) -> int:
    """CTAs that all rows of `num_tokens` tokens and `num_heads` heads take."""
    rows = num_tokens * num_heads
    check_int(operation, f"num_tokens * {name}", rows, 0, MAX_INT32)
    lanes_a_row = 1 << (-(-head_dim // _LANE_ELEMENTS) - 1).bit_length()
    return -(-rows * lanes_a_row // THREADS)
