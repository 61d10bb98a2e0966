"""The two pools of a paged KV cache of fp16 or bf16, checked once against their layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyferrum_kv.dtypes import as_dtype, dtype_name
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv.checks import HALVES, DeviceSlice, check_disjoint, check_slice
from pyferrum_kv.int8_kv.layout import KvLayout
from pyferrum_kv.int8_kv.pools import ClosedOnError, Closing

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream

POOL_ALIGNMENT = 16
"""Bytes: eight elements are read and written at once."""


@dataclass(frozen=True)
class HalfKvPools(Closing):
    """Borrows two slices of one type that `layout` describes; allocate() makes them.

    k_pool, v_pool:  fp16, bf16  [num_blocks, block_size, num_kv_heads, head_dim]
    """

    layout: KvLayout
    k_pool: DeviceSlice
    v_pool: DeviceSlice

    def __post_init__(self) -> None:
        name, layout = "HalfKvPools", self.layout
        context = getattr(self.k_pool, "context", None)
        shape = (layout.num_blocks, layout.block_size, layout.num_kv_heads, layout.head_dim)
        for pool, given in (("k_pool", self.k_pool), ("v_pool", self.v_pool)):
            check_slice(
                name,
                pool,
                given,
                HALVES if pool == "k_pool" else self.k_pool.dtype,
                layout.num_codes,
                context,
                why=str(list(shape)),
                alignment=POOL_ALIGNMENT,
            )
        check_disjoint(name, (("k_pool", self.k_pool), ("v_pool", self.v_pool)), ())

    @classmethod
    def allocate(cls, stream: CudaStream, layout: KvLayout, dtype: Any = "float16") -> HalfKvPools:
        """Allocate pools of zeros on `stream`; dtype float16 or bfloat16.

        Zeros, because the tensor-core kernels load whole tiles of 16 tokens: what lies past a
        sequence's end changes nothing, but a memory checker wants it written.
        """
        kind = as_dtype(dtype)
        if kind not in HALVES:
            raise ArgumentError(
                f"HalfKvPools.allocate: dtype is {dtype_name(kind)}; wanted float16 or bfloat16;"
                " int8_kv.Int8KvPools holds int8"
            )
        with ClosedOnError() as made:
            for _ in "kv":
                made.append(stream.alloc_zeros(layout.num_codes, kind))
            return cls(layout, *made)

    @property
    def slices(self) -> tuple[DeviceSlice, DeviceSlice]:
        return self.k_pool, self.v_pool

    @property
    def key(self) -> tuple[object, ...]:
        """What a cache may know them by: a token for each slice, 0 once closed, and the layout."""
        return (self.k_pool.token, self.v_pool.token, self.layout)
