"""merge_attention_states: attention over parts of a context into attention over all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.dtypes import dtype_name
from pyferrum_kv.int8_kv.checks import (
    FLOAT32,
    HALVES,
    MAX_INT32,
    DeviceSlice,
    check_disjoint,
    check_head_dim,
    check_int,
    check_slice,
)
from pyferrum_kv.int8_kv.grid_launch import GridLaunch
from pyferrum_kv.int8_kv.launch_cache import keep, launches_of, token_of
from pyferrum_kv.int8_kv.strides import MAX_STRIDE

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream

_NAME = "merge_attention_states"
_THREADS = 256  # as in kernels/merge_attention_states.cu
_CHUNK_BYTES = 16  # of a row, a thread
MERGE_ENTRIES = {"float16": _NAME, "bfloat16": f"{_NAME}_bf16", "float32": f"{_NAME}_f32"}


def merge_attention_states(
    stream: CudaStream,
    partial_out: DeviceSlice,
    partial_lse: DeviceSlice,
    out: DeviceSlice,
    *,
    num_states: int,
    num_q_heads: int,
    head_dim: int,
    num_tokens: int | None = None,
    lse: DeviceSlice | None = None,
    state_stride: int | None = None,
    lse_state_stride: int | None = None,
) -> None:
    """Merge attention over disjoint sets of tokens; asynchronous on `stream`, which borrows all.

    partial_out:  fp16, bf16, float32  [num_states, num_tokens, num_q_heads, head_dim]
    partial_lse:  float32              [num_states, num_tokens, num_q_heads], natural logarithm
    out:          as partial_out       [num_tokens, num_q_heads, head_dim]
    lse:          float32              [num_tokens, num_q_heads], written

    A state's row with lse -inf saw no token and weighs nothing, whatever lies in it; where all of
    them are, out is 0 and lse -inf.
    num_tokens: as many as `out` holds, unless given.
    state_stride, lse_state_stride: elements from a state to the next; None: contiguous.
    """
    key: tuple[Any, ...] | None = None
    try:
        key = (
            *(_NAME, partial_out.token, partial_lse.token, out.token, token_of(lse)),
            *(num_states, num_q_heads, head_dim, num_tokens, state_stride, lse_state_stride),
        )
        held: MergeLaunch | None = launches_of(stream).get(key)
    except (AttributeError, TypeError):  # what is wrong with which argument, the checks will say
        held = None
    if held is None:
        held = MergeLaunch(
            stream,
            (partial_out, partial_lse, out, lse),
            (num_states, num_tokens, num_q_heads, head_dim),
            (state_stride, lse_state_stride),
        )
        keep(stream, key, held)
    held.run()


class MergeLaunch(GridLaunch):
    """Checked and prepared for one set of slices and sizes."""

    __slots__ = ()

    def __init__(
        self,
        stream: CudaStream,
        slices: tuple[DeviceSlice, DeviceSlice, DeviceSlice, DeviceSlice | None],
        sizes: tuple[int, int | None, int, int],
        strides: tuple[int | None, int | None],
    ) -> None:
        super().__init__()
        partial_out, partial_lse, out, lse = slices
        context = stream.context
        num_states = check_int(_NAME, "num_states", sizes[0], 1, MAX_INT32)
        num_q_heads = check_int(_NAME, "num_q_heads", sizes[2], 1, MAX_INT32)
        head_dim = check_head_dim(_NAME, sizes[3])
        check_slice(_NAME, "partial_out", partial_out, (*HALVES, FLOAT32), 0, context)
        check_slice(_NAME, "out", out, partial_out.dtype, 0, context, why="that of partial_out")
        given = len(out) // (num_q_heads * head_dim) if sizes[1] is None else sizes[1]
        num_tokens = check_int(_NAME, "num_tokens", given, 0, MAX_INT32)
        rows = num_tokens * num_q_heads
        stride = rows * head_dim if strides[0] is None else strides[0]
        lse_stride = rows if strides[1] is None else strides[1]
        stride = check_int(_NAME, "state_stride", stride, 0, MAX_STRIDE)
        lse_stride = check_int(_NAME, "lse_state_stride", lse_stride, 0, MAX_STRIDE)
        shape = f"[{num_tokens}, {num_q_heads}, {head_dim}]"
        lse_shape = f"[{num_tokens}, {num_q_heads}]"
        spans = [
            (num_states - 1) * s + n for s, n in ((stride, rows * head_dim), (lse_stride, rows))
        ]
        why = f"{num_states} states of "
        dtype = partial_out.dtype
        check_slice(_NAME, "partial_out", partial_out, dtype, spans[0], context, why=why + shape)
        check_slice(
            _NAME, "partial_lse", partial_lse, FLOAT32, spans[1], context, why=why + lse_shape
        )
        check_slice(_NAME, "out", out, dtype, rows * head_dim, context, why=shape)
        if lse is not None:
            check_slice(_NAME, "lse", lse, FLOAT32, rows, context, why=lse_shape)
        inputs = (("partial_out", partial_out), ("partial_lse", partial_lse))
        check_disjoint(_NAME, (("out", out), ("lse", lse)), inputs)
        if not rows:
            return

        chunks = rows * head_dim * dtype.itemsize // _CHUNK_BYTES
        grid = -(-chunks // _THREADS)
        check_int(_NAME, "num_tokens * num_q_heads * head_dim in chunks", chunks, 1, MAX_INT32)
        self.prepare(
            stream,
            MERGE_ENTRIES[dtype_name(dtype)],
            grid,
            _THREADS,
            partial_out,
            partial_lse,
            out,
            lse,
            stride,
            lse_stride,
            num_states,
            rows,
            head_dim,
        )
