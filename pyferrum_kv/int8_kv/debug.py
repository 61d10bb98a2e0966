"""The debug mode: do block tables, lengths, slots and pairs point inside the pools?

They lie on the device, where no launch reads them back, so a wrong one is found only here. The
checks copy them to the host and wait for the stream: for hunting a fault, not for serving. They run
before a launch with debug=True, before every launch with PYFERRUM_KV_DEBUG=1 in the environment, or
by hand.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from pyferrum_kv.errors import ArgumentError, CaptureError

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream
    from pyferrum_kv.int8_kv.checks import DeviceSlice

ENABLED = os.environ.get("PYFERRUM_KV_DEBUG", "") not in ("", "0")
"""Whether every launch is checked; may be set."""


def check_block_table(
    stream: CudaStream,
    block_table: DeviceSlice,
    kv_lens: DeviceSlice | None,
    *,
    num_blocks: int,
    block_size: int,
    batch_size: int,
    max_kv_len: int,
    block_table_stride: int | None = None,
    operation: str = "paged_decode_attention_int8",
) -> None:
    """Every length is within 0..max_kv_len, every table entry it needs within the pool; waits.

    block_table: int32 [batch_size, max_blocks_per_seq], kv_lens: int32 [batch_size] or None
    """
    _refuse_capture(stream, operation)
    table = stream.clone_dtoh(block_table)
    lens = np.full(batch_size, max_kv_len) if kv_lens is None else stream.clone_dtoh(kv_lens)
    stride = len(table) // max(batch_size, 1) if block_table_stride is None else block_table_stride
    for b, kv_len in enumerate(lens[:batch_size].tolist()):
        if not 0 <= kv_len <= max_kv_len:
            raise ArgumentError(
                f"{operation}: kv_lens[{b}] is {kv_len}; wanted 0 to max_kv_len {max_kv_len}"
            )
        used = table[b * stride : b * stride - (-kv_len // block_size)]
        outside = np.flatnonzero((used < 0) | (used >= num_blocks))
        if len(outside):
            i = int(outside[0])
            raise ArgumentError(
                f"{operation}: block_table[{b}, {i}] is {used[i]}; wanted a block 0 to"
                f" {num_blocks - 1}, as kv_lens[{b}] is {kv_len} in blocks of {block_size}"
            )


def check_slot_mapping(
    stream: CudaStream,
    slot_mapping: DeviceSlice,
    *,
    num_slots: int,
    num_tokens: int | None = None,
    operation: str = "int8_kv_cache_append",
) -> None:
    """Every slot is -1 or within the pool, and none is named twice; waits.

    slot_mapping: int32 [num_tokens]
    """
    _refuse_capture(stream, operation)
    slots = stream.clone_dtoh(slot_mapping)[:num_tokens]
    outside = np.flatnonzero((slots < -1) | (slots >= num_slots))
    if len(outside):
        i = int(outside[0])
        raise ArgumentError(
            f"{operation}: slot_mapping[{i}] is {slots[i]}; wanted -1 or 0 to {num_slots - 1}"
        )
    kept = np.flatnonzero(slots >= 0)
    named, count = np.unique(slots[kept], return_counts=True)
    if (count > 1).any():
        slot = named[count > 1][0]
        both = kept[np.flatnonzero(slots[kept] == slot)][:2]
        raise ArgumentError(
            f"{operation}: slot_mapping[{both[0]}] and [{both[1]}] are both {slot};"
            " wanted distinct slots"
        )


def check_positions(
    stream: CudaStream,
    positions: DeviceSlice,
    *,
    max_position: int,
    num_tokens: int | None = None,
    operation: str = "int8_kv_cache_append_rotary",
) -> None:
    """Every position is within the table; waits.

    positions: int32 [num_tokens]
    """
    _refuse_capture(stream, operation)
    given = stream.clone_dtoh(positions)[:num_tokens]
    outside = np.flatnonzero((given < 0) | (given >= max_position))
    if len(outside):
        i = int(outside[0])
        raise ArgumentError(
            f"{operation}: positions[{i}] is {given[i]}; wanted 0 to {max_position - 1}"
        )


def check_block_pairs(
    stream: CudaStream,
    block_pairs: DeviceSlice,
    *,
    num_blocks: tuple[int, int],
    num_pairs: int | None = None,
    within: bool = False,
    operation: str = "swap_blocks",
) -> None:
    """Every pair is within its pools or holds a -1, and no copy meets another; waits.

    block_pairs: int32 [num_pairs, 2]
    num_blocks:  of the pools that are read, and of those that are written
    within:      they are the same, so no block may be written and read
    """
    _refuse_capture(stream, operation)
    pairs = stream.clone_dtoh(block_pairs)
    pairs = pairs[: len(pairs) // 2 * 2].reshape(-1, 2)[:num_pairs]
    for side, limit in enumerate(num_blocks):
        outside = np.flatnonzero((pairs[:, side] < -1) | (pairs[:, side] >= limit))
        if len(outside):
            i = int(outside[0])
            raise ArgumentError(
                f"{operation}: block_pairs[{i}, {side}] is {pairs[i, side]};"
                f" wanted -1 or 0 to {limit - 1}"
            )
    kept = np.flatnonzero((pairs >= 0).all(axis=1))
    written: dict[int, int] = {}
    for i in kept.tolist():
        first = written.setdefault(int(pairs[i, 1]), i)
        if first != i:
            raise ArgumentError(
                f"{operation}: block_pairs[{first}, 1] and [{i}, 1] are both {pairs[i, 1]};"
                " wanted distinct blocks"
            )
    for i in kept.tolist() if within else ():
        other = written.get(int(pairs[i, 0]), i)
        if other != i:
            raise ArgumentError(
                f"{operation}: block_pairs[{i}, 0] and [{other}, 1] are both {pairs[i, 0]}; wanted"
                " no block that is read by one pair and written by another"
            )


def _refuse_capture(stream: CudaStream, operation: str) -> None:
    if stream.context.ledger.captures:
        raise CaptureError(
            f"{operation}: the debug mode waits for the stream and a capture runs; turn it off"
        )
