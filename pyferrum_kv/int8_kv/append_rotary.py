"""int8_kv_cache_append_rotary: rotate new K and q by their positions, and append, in one launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.dtypes import dtype_name
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv import debug as debugging
from pyferrum_kv.int8_kv.append import NAMES, THREADS, CheckedAppend, num_ctas
from pyferrum_kv.int8_kv.checks import (
    FLOAT32,
    INT32,
    MAX_INT32,
    DeviceSlice,
    check_disjoint,
    check_int,
    check_slice,
)
from pyferrum_kv.int8_kv.grid_launch import GridLaunch
from pyferrum_kv.int8_kv.launch_cache import keep, launches_of, token_of
from pyferrum_kv.int8_kv.strides import Strides

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream
    from pyferrum_kv.int8_kv.pools import Int8KvPools

_NAME = "int8_kv_cache_append_rotary"
ROTARY_ENTRIES = {"float16": _NAME, "bfloat16": f"{_NAME}_bf16"}
TwoStrides = tuple[int, int] | None


def int8_kv_cache_append_rotary(
    stream: CudaStream,
    k: DeviceSlice,
    v: DeviceSlice,
    pools: Int8KvPools,
    slot_mapping: DeviceSlice,
    positions: DeviceSlice,
    cos_sin: DeviceSlice,
    *,
    rotary_dim: int | None = None,
    interleaved: bool = False,
    q: DeviceSlice | None = None,
    q_out: DeviceSlice | None = None,
    num_q_heads: int = 0,
    num_tokens: int | None = None,
    k_strides: TwoStrides = None,
    v_strides: TwoStrides = None,
    q_strides: TwoStrides = None,
    q_out_strides: TwoStrides = None,
    debug: bool | None = None,
) -> None:
    """Rotate K and q, and append K and V to their slots; asynchronous on `stream`.

    k, v:          fp16, bf16  [num_tokens, num_kv_heads, head_dim]
    slot_mapping:  int32       [num_tokens]   as for int8_kv_cache_append(); -1 still rotates q
    positions:     int32       [num_tokens]   one outside cos_sin rotates to NaN
    cos_sin:       float32     [max_position, rotary_dim]   rotary_dim / 2 cosines, then the sines
    q:             as k        [num_tokens, num_q_heads, head_dim]   None: K alone
    q_out:         as q, written; None: q itself is

    The codes are those of a rotation by itself and an append after it; `k` itself stays as it is.
    rotary_dim: elements of a row that turn, the first ones; None: head_dim.
    interleaved: pairs are neighbours, (0, 1), (2, 3); else rotary_dim / 2 apart, as in neox.
    Strides are in elements from token to token and from head to head; None: contiguous.
    num_tokens, debug: as for int8_kv_cache_append().
    """
    key: tuple[Any, ...] | None = None
    try:
        key = (
            *(_NAME, k.token, v.token, slot_mapping.token, positions.token, cos_sin.token),
            *(token_of(q), token_of(q_out), *pools.key, rotary_dim, interleaved, num_q_heads),
            *(num_tokens, k_strides, v_strides, q_strides, q_out_strides),
        )
        held: RotaryLaunch | None = launches_of(stream).get(key)
    except (AttributeError, TypeError):  # what is wrong with which argument, the checks will say
        held = None
    if held is None:
        held = RotaryLaunch(
            stream,
            (k, v),
            pools,
            slot_mapping,
            (positions, cos_sin),
            (q, q_out),
            num_tokens=num_tokens,
            num_q_heads=num_q_heads,
            rotary_dim=pools.layout.head_dim if rotary_dim is None else rotary_dim,
            interleaved=bool(interleaved),
            kv_strides=(k_strides, v_strides),
            q_strides=(q_strides, q_out_strides),
        )
        keep(stream, key, held)
    if debug or (debug is None and debugging.ENABLED):
        num_slots, num_tokens = pools.layout.num_slots, held.num_tokens
        debugging.check_slot_mapping(
            stream, slot_mapping, num_slots=num_slots, num_tokens=num_tokens, operation=_NAME
        )
        debugging.check_positions(
            stream, positions, max_position=held.max_position, num_tokens=num_tokens
        )
    held.run()


class RotaryLaunch(GridLaunch):
    """Checked and prepared for one set of slices and sizes."""

    __slots__ = ("max_position", "num_tokens")

    def __init__(
        self,
        stream: CudaStream,
        kv: tuple[DeviceSlice, DeviceSlice],
        pools: Int8KvPools,
        slot_mapping: DeviceSlice,
        tables: tuple[DeviceSlice, DeviceSlice],
        q_and_out: tuple[DeviceSlice | None, DeviceSlice | None],
        *,
        num_tokens: int | None,
        num_q_heads: int,
        rotary_dim: int,
        interleaved: bool,
        kv_strides: tuple[TwoStrides, TwoStrides],
        q_strides: tuple[TwoStrides, TwoStrides],
    ) -> None:
        super().__init__()
        context, layout = stream.context, pools.layout
        checked = CheckedAppend.of(
            *(context, kv, layout, pools.slices, slot_mapping, num_tokens, kv_strides),
            operation=_NAME,
        )
        self.num_tokens = num_tokens = checked.num_tokens
        positions, cos_sin = tables
        rotary_dim = check_int(_NAME, "rotary_dim", rotary_dim, 2, layout.head_dim)
        if rotary_dim % 2:
            raise ArgumentError(f"{_NAME}: rotary_dim is {rotary_dim}; wanted an even number")
        check_slice(_NAME, "positions", positions, INT32, num_tokens, context)
        check_slice(_NAME, "cos_sin", cos_sin, FLOAT32, 0, context)
        if len(cos_sin) % rotary_dim:
            raise ArgumentError(
                f"{_NAME}: cos_sin has {len(cos_sin)} elements; wanted"
                f" [max_position, rotary_dim], a multiple of {rotary_dim}"
            )
        max_position = len(cos_sin) // rotary_dim
        self.max_position = check_int(_NAME, "the rows of cos_sin", max_position, 0, MAX_INT32)
        names = (*zip(NAMES[2:], pools.slices, strict=True),)
        check_disjoint(_NAME, names, (("positions", positions), ("cos_sin", cos_sin)))

        q, q_out = q_and_out
        num_q_heads = check_int(_NAME, "num_q_heads", num_q_heads, 0 if q is None else 1, MAX_INT32)
        if q is None and (num_q_heads or q_out is not None):
            raise ArgumentError(f"{_NAME}: q is None; wanted one for num_q_heads or q_out")
        strides = (Strides(0, 0, 0), Strides(0, 0, 0))
        if q is not None:
            shape = (num_tokens, num_q_heads, layout.head_dim)
            strides = _checked_q(
                context, q, q_out, shape, q_strides, kv, checked.strides, layout.num_kv_heads
            )
            read = [*names, ("positions", positions), ("cos_sin", cos_sin)]
            read += [("slot_mapping", slot_mapping)]
            out = ("q", q) if q_out is None else ("q_out", q_out)
            check_disjoint(_NAME, [out], read)
        if not num_tokens:
            return

        head_dim = layout.head_dim
        grid = num_ctas(_NAME, num_tokens, "num_kv_heads", layout.num_kv_heads, head_dim)
        grid += num_ctas(_NAME, num_tokens, "num_q_heads", num_q_heads, head_dim)
        self.prepare(
            stream,
            ROTARY_ENTRIES[dtype_name(kv[0].dtype)],
            grid,
            THREADS,
            *checked.arguments,
            *(q, q if q_out is None else q_out, positions, cos_sin),
            *(strides[0].token, strides[0].head, strides[1].token, strides[1].head),
            *(num_q_heads, rotary_dim, max_position, int(interleaved)),
        )


def _checked_q(
    context: Any,
    q: DeviceSlice,
    q_out: DeviceSlice | None,
    shape: tuple[int, int, int],
    given: tuple[TwoStrides, TwoStrides],
    kv: tuple[DeviceSlice, DeviceSlice],
    kv_strides: tuple[Strides, Strides],
    num_kv_heads: int,
) -> tuple[Strides, Strides]:
    """Strides of q and of where it goes, which shares no element with K and V, nor with q."""
    in_place = q_out is None
    strides = Strides.checked(_NAME, "q_strides", given[0], shape, unique=in_place)
    check_slice(_NAME, "q", q, kv[0].dtype, strides.num_elements, context, why=str(list(shape)))
    name, out, out_strides = "q", q, strides
    if q_out is None:
        if given[1] is not None:
            raise ArgumentError(f"{_NAME}: q_out_strides is {given[1]}; wanted None without q_out")
    else:
        name, out = "q_out", q_out
        out_strides = Strides.checked(_NAME, "q_out_strides", given[1], shape, unique=True)
        size = out_strides.num_elements
        check_slice(_NAME, "q_out", q_out, q.dtype, size, context, why=str(list(shape)))
    _, num_q_heads, head_dim = shape
    read = [
        (of, memory, other, num_kv_heads)
        for of, memory, other in zip("kv", kv, kv_strides, strict=True)
    ]
    if not in_place:
        read.append(("q", q, strides, num_q_heads))
    for of, memory, other, num_heads in read:
        if not _apart((out, out_strides, num_q_heads), (memory, other, num_heads), head_dim):
            check_disjoint(_NAME, [(name, out)], [(of, memory)])
    return strides, out_strides


def _apart(
    a: tuple[DeviceSlice, Strides, int], b: tuple[DeviceSlice, Strides, int], head_dim: int
) -> bool:
    """Whether two tensors are columns of the same rows that do not touch: a fused projection."""
    (one, strides, heads), (other, other_strides, other_heads) = a, b
    size = one.dtype.itemsize
    row = strides.token * size
    if row == 0 or strides.token != other_strides.token:
        return False
    width = ((heads - 1) * strides.head + head_dim) * size
    other_width = ((other_heads - 1) * other_strides.head + head_dim) * size
    begin = (one.device_ptr - other.device_ptr) % row
    return begin >= other_width and begin + width <= row
