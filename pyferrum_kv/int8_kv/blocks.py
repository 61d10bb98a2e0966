"""copy_blocks, swap_blocks: whole blocks, codes and scales of K and V together.

A block without its scales is garbage, so no operation here moves the one and not the other. Both
are one launch of one kernel, whose sources and destinations may lie on the device or in page-locked
host memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.pinned import PinnedSlice
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv import debug as debugging
from pyferrum_kv.int8_kv.checks import (
    INT32,
    MAX_INT32,
    DeviceSlice,
    check_disjoint,
    check_int,
    check_slice,
)
from pyferrum_kv.int8_kv.grid_launch import GridLaunch
from pyferrum_kv.int8_kv.launch_cache import keep, launches_of

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream
    from pyferrum_kv.int8_kv.pools import Int8KvPools

BLOCKS_ENTRY = "copy_blocks"
_THREADS, _PART_BYTES = 256, 16384  # as in kernels/copy_blocks.cu
_NAMES = ("k_pool", "v_pool", "k_scales", "v_scales")


def copy_blocks(
    stream: CudaStream,
    pools: Int8KvPools,
    block_pairs: DeviceSlice,
    *,
    num_pairs: int | None = None,
    debug: bool | None = None,
) -> None:
    """Copy blocks within pools, as copy-on-write does; asynchronous on `stream`.

    block_pairs: int32 [num_pairs, 2]   (from, to); a block outside the pools, or -1: no copy

    Pairs are copied at once, in no order: a `to` stands once, and is no other pair's `from`.
    num_pairs: as many as block_pairs holds, unless given.
    debug: check the pairs on the device first, which waits for the stream; None: as the environment
    variable PYFERRUM_KV_DEBUG says.
    """
    _run("copy_blocks", stream, pools, pools, block_pairs, num_pairs, debug)


def swap_blocks(
    stream: CudaStream,
    src: Int8KvPools,
    dst: Int8KvPools,
    block_pairs: DeviceSlice,
    *,
    num_pairs: int | None = None,
    debug: bool | None = None,
) -> None:
    """Copy blocks of `src` to blocks of `dst`, out to the host or in; asynchronous on `stream`.

    src, dst:     pools alike but for num_blocks, on the device or of Int8KvPools.allocate_pinned()
    block_pairs:  int32 [num_pairs, 2]   (block of src, block of dst); one outside, or -1: no copy

    Each block of `dst` stands once. The contents of pinned pools may be read or written on the host
    after their slices' wait(). num_pairs, debug: as in copy_blocks().
    """
    _run("swap_blocks", stream, src, dst, block_pairs, num_pairs, debug)


def _run(
    operation: str,
    stream: CudaStream,
    src: Int8KvPools,
    dst: Int8KvPools,
    block_pairs: DeviceSlice,
    num_pairs: int | None,
    debug: bool | None,
) -> None:
    key: tuple[Any, ...] | None = None
    try:
        key = (operation, block_pairs.token, *src.key, *dst.key, num_pairs)
        held: BlocksLaunch | None = launches_of(stream).get(key)
    except (AttributeError, TypeError):  # what is wrong with which argument, the checks will say
        held = None
    if held is None:
        held = BlocksLaunch(operation, stream, src, dst, block_pairs, num_pairs)
        keep(stream, key, held)
    if debug or (debug is None and debugging.ENABLED):
        debugging.check_block_pairs(
            stream,
            block_pairs,
            num_blocks=(src.layout.num_blocks, dst.layout.num_blocks),
            num_pairs=num_pairs,
            within=src is dst,
            operation=operation,
        )
    held.copy(stream)


class BlocksLaunch(GridLaunch):
    """Checked and prepared for two sets of pools and one slice of pairs."""

    __slots__ = ("pinned",)

    def __init__(
        self,
        operation: str,
        stream: CudaStream,
        src: Int8KvPools,
        dst: Int8KvPools,
        block_pairs: DeviceSlice,
        num_pairs: int | None,
    ) -> None:
        super().__init__()
        context, layout = stream.context, src.layout
        check_slice(operation, "block_pairs", block_pairs, INT32, 0, context)
        if num_pairs is None:
            if len(block_pairs) % 2:
                raise ArgumentError(
                    f"{operation}: block_pairs has {len(block_pairs)} elements; wanted"
                    " [num_pairs, 2], an even number"
                )
            num_pairs = len(block_pairs) // 2
        num_pairs = check_int(operation, "num_pairs", num_pairs, 0, MAX_INT32)
        why = f"[{num_pairs}, 2]"
        check_slice(operation, "block_pairs", block_pairs, INT32, 2 * num_pairs, context, why=why)
        for pools in (src, dst):
            for name, memory in zip(_NAMES, pools.slices, strict=True):
                check_slice(operation, name, memory, memory.dtype, 0, context)
        for name in ("block_size", "num_kv_heads", "head_dim"):
            sizes = getattr(layout, name), getattr(dst.layout, name)
            if sizes[0] != sizes[1]:
                raise ArgumentError(
                    f"{operation}: {name} is {sizes[0]} in src and {sizes[1]} in dst;"
                    " wanted pools that are alike but for num_blocks"
                )
        written = [(f"dst.{name}", of) for name, of in zip(_NAMES, dst.slices, strict=True)]
        read: list[tuple[str, DeviceSlice | None]] = [("block_pairs", block_pairs)]
        if src is not dst:
            read += [(f"src.{name}", of) for name, of in zip(_NAMES, src.slices, strict=True)]
        check_disjoint(operation, written, read)
        roots = {id(of.root): of.root for of in (*src.slices, *dst.slices, block_pairs)}
        self.pinned = tuple(root for root in roots.values() if isinstance(root, PinnedSlice))
        if not num_pairs:
            return

        parts = -(-layout.kv_block_stride // _PART_BYTES)
        grid = num_pairs * 2 * parts
        check_int(operation, "num_pairs * parts of a block", grid, 1, MAX_INT32)
        self.prepare(
            stream,
            BLOCKS_ENTRY,
            grid,
            _THREADS,
            *src.slices,
            *dst.slices,
            block_pairs,
            layout.kv_block_stride,
            layout.scale_block_stride,
            layout.num_blocks,
            dst.layout.num_blocks,
            num_pairs,
            parts,
        )

    def copy(self, stream: CudaStream) -> None:
        """Launch, and let page-locked pools know that `stream` uses them."""
        self.run()
        if self.launch is not None and self.pinned and not stream.context.ledger.captures:
            for memory in self.pinned:
                memory.copied_on(stream)
