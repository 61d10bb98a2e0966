"""int8_kv_cache_append: quantise new tokens into their slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.launch_config import LaunchConfig
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
from pyferrum_kv.int8_kv.launch_cache import keep, launches_of
from pyferrum_kv.int8_kv.strides import Strides
from pyferrum_kv.loader import PtxLoader

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream, PreparedLaunch
    from pyferrum_kv.int8_kv.layout import KvLayout
    from pyferrum_kv.int8_kv.pools import Int8KvPools

_NAME = "int8_kv_cache_append"
_THREADS = 256  # as in kernels/int8_kv_cache_append.cu

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

    k, v:          fp16, bf16  [num_tokens, num_kv_heads, head_dim]
    slot_mapping:  int32       [num_tokens]   distinct; -1, or any outside the pool, writes nothing

    num_tokens: as many as slot_mapping holds, unless given.
    k_strides, v_strides: elements from token to token and from head to head; None: contiguous.
    debug: check the slots on the device first, which waits for the stream; None: as the environment
    variable PYFERRUM_KV_DEBUG says.
    """
    key: tuple[Any, ...] | None = None
    try:
        key = (
            *(k.token, v.token, slot_mapping.token),
            *pools.key,
            *(num_tokens, k_strides, v_strides),
        )
        held: AppendLaunch | None = launches_of(stream).get(key)
    except (AttributeError, TypeError):  # what is wrong with which argument, the checks will say
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
        if key is not None:
            keep(stream, key, held)
    if debug or (debug is None and debugging.ENABLED):
        num_slots = pools.layout.num_slots
        debugging.check_slot_mapping(
            stream, slot_mapping, num_slots=num_slots, num_tokens=num_tokens
        )
    held.run()


class AppendLaunch:
    """Checked and prepared for one set of slices and sizes."""

    __slots__ = ("launch", "operation")

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
        names: tuple[str, ...] = ("k", "v", "k_pool", "v_pool", "k_scales", "v_scales"),
        operation: str = _NAME,
    ) -> None:
        self.launch: PreparedLaunch | None = None
        self.operation = operation
        context = stream.context
        check_slice(operation, "slot_mapping", slot_mapping, INT32, 0, context)
        if num_tokens is None:
            num_tokens = len(slot_mapping)
        num_tokens = check_int(operation, "num_tokens", num_tokens, 0, MAX_INT32)
        why = f"num_tokens {num_tokens}"
        check_slice(operation, "slot_mapping", slot_mapping, INT32, num_tokens, context, why=why)
        shape = (num_tokens, layout.num_kv_heads, layout.head_dim)
        strides = []
        for name, given, memory in ((names[0], k_strides, k), (names[1], v_strides, v)):
            checked = Strides.checked(operation, f"{name[0]}_strides", given, shape)
            size = checked.num_elements
            check_slice(operation, name, memory, HALVES, size, context, why=str(list(shape)))
            strides.append(checked)
        check_slice(operation, names[1], v, k.dtype, 0, context, why=f"the dtype of {names[0]}")
        for name, memory in zip(names[2:], pools, strict=True):
            check_slice(operation, name, memory, memory.dtype, 0, context)
        inputs = ((names[0], k), (names[1], v), ("slot_mapping", slot_mapping))
        check_disjoint(operation, zip(names[2:], pools, strict=True), inputs)
        if num_tokens:
            self.prepare(stream, k, v, layout, pools, slot_mapping, num_tokens, strides)

    def prepare(
        self,
        stream: CudaStream,
        k: DeviceSlice,
        v: DeviceSlice,
        layout: KvLayout,
        pools: Pools,
        slot_mapping: DeviceSlice,
        num_tokens: int,
        strides: list[Strides],
    ) -> None:
        """Plan and bind what passed the checks."""
        context, operation = stream.context, self.operation

        lanes_a_row = 1 << (layout.head_dim // 8 - 1).bit_length()
        rows = num_tokens * layout.num_kv_heads
        grid = -(-rows * lanes_a_row // _THREADS)
        check_int(operation, "num_tokens * num_kv_heads / rows a CTA", grid, 1, MAX_INT32)
        entry = _NAME if dtype_name(k.dtype) == "float16" else f"{_NAME}_bf16"
        self.launch = (
            PtxLoader.of(context)
            .function(entry)
            .prepare(
                LaunchConfig((grid, 1, 1), (_THREADS, 1, 1)),
                k,
                v,
                *pools,
                slot_mapping,
                layout.num_slots,
                strides[0].token,
                strides[0].head,
                strides[1].token,
                strides[1].head,
                layout.kv_block_stride,
                layout.scale_block_stride,
                num_tokens,
                layout.num_kv_heads,
                layout.head_dim,
                layout.block_size,
                stream=stream,
                keep_arguments=False,
            )
        )

    def run(self) -> None:
        if self.launch is not None:
            self.launch.launch()
