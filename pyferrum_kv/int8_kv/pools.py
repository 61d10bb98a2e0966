"""The four pools of a paged INT8 KV cache, checked once against their layout."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pyferrum_kv.int8_kv.checks import FLOAT16, INT8, DeviceSlice, check_disjoint, check_slice
from pyferrum_kv.int8_kv.layout import KvLayout

if TYPE_CHECKING:
    import numpy as np

    from pyferrum_kv.driver import CudaContext, CudaStream

POOL_ALIGNMENT = 8
"""Bytes: eight codes are written at once."""


Held = TypeVar("Held", bound="Closing")


class ClosedOnError(list[Any]):
    """Slices in the making: if the block fails, what was made is closed."""

    def __enter__(self) -> ClosedOnError:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for held in self:
                held.close()


class Closing:
    """Pools as a context manager, over `slices`."""

    @property
    def slices(self) -> tuple[DeviceSlice, ...]:
        raise NotImplementedError

    def close(self) -> None:
        """Free the slices that are owners; views are left to theirs."""
        for held in self.slices:
            if held.root is held:
                held.root.close()

    def __enter__(self: Held) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Int8KvPools(Closing):
    """Borrows four slices that `layout` describes; allocate() makes them.

    k_pool, v_pool:      int8    [num_blocks, block_size, num_kv_heads, head_dim]
    k_scales, v_scales:  float16 [num_blocks, block_size, num_kv_heads]
    """

    layout: KvLayout
    k_pool: DeviceSlice
    v_pool: DeviceSlice
    k_scales: DeviceSlice
    v_scales: DeviceSlice
    layout_key: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The layout as plain numbers, which a cache finds sooner than the object."""

    def __post_init__(self) -> None:
        layout, context = self.layout, getattr(self.k_pool, "context", None)
        check_pools("Int8KvPools", layout, self.slices, context)
        object.__setattr__(self, "layout_key", astuple(layout))

    @classmethod
    def allocate(cls, stream: CudaStream, layout: KvLayout) -> Int8KvPools:
        """Allocate pools of zeros on `stream`.

        Zeros, because the tensor-core kernels load whole tiles of 16 tokens: what lies past a
        sequence's end changes nothing, but a memory checker wants it written.
        """
        with ClosedOnError() as made:
            for num_elements, dtype in _sizes(layout):
                made.append(stream.alloc_zeros(num_elements, dtype))
            return cls(layout, *made)

    @classmethod
    def allocate_pinned(cls, ctx: CudaContext, layout: KvLayout) -> Int8KvPools:
        """Allocate pools of zeros in page-locked host memory, for swap_blocks().

        Their slices' `array` is what the host sees, after a wait().
        """
        with ClosedOnError() as made:
            for num_elements, dtype in _sizes(layout):
                pinned = ctx.alloc_pinned(num_elements, dtype)
                made.append(pinned)
                pinned.array.fill(0)
            return cls(layout, *made)

    @property
    def slices(self) -> tuple[DeviceSlice, DeviceSlice, DeviceSlice, DeviceSlice]:
        return self.k_pool, self.v_pool, self.k_scales, self.v_scales

    @property
    def key(self) -> tuple[Any, ...]:
        """What a prepared launch on these pools is found by."""
        return (*(held.token for held in self.slices), self.layout_key)


def _sizes(layout: KvLayout) -> tuple[tuple[int, np.dtype[Any]], ...]:
    """Elements and type of the four."""
    codes, scales = (layout.num_codes, INT8), (layout.num_scales, FLOAT16)
    return codes, codes, scales, scales


def check_pools(
    operation: str,
    layout: KvLayout,
    slices: tuple[DeviceSlice, DeviceSlice, DeviceSlice, DeviceSlice],
    context: object,
    names: tuple[str, str, str, str] = ("k_pool", "v_pool", "k_scales", "v_scales"),
) -> None:
    """The pools hold what the layout says, and none lies over another."""
    shape = f"[{layout.num_blocks}, {layout.block_size}, {layout.num_kv_heads}"
    for name, given in zip(names[:2], slices[:2], strict=True):
        check_slice(
            operation,
            name,
            given,
            INT8,
            layout.num_codes,
            context,
            why=f"{shape}, {layout.head_dim}]",
            alignment=POOL_ALIGNMENT,
        )
    for name, given in zip(names[2:], slices[2:], strict=True):
        check_slice(operation, name, given, FLOAT16, layout.num_scales, context, why=f"{shape}]")
    check_disjoint(operation, zip(names, slices, strict=True), ())
