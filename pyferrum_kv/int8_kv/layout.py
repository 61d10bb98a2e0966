"""Where codes and scales lie in the pools: the host twin of kernels/paged_kv.cuh.

slot         = block * block_size + block_offset
code  offset = block * kv_block_stride    + (block_offset * num_kv_heads + kv_head) * head_dim + d
scale offset = block * scale_block_stride +  block_offset * num_kv_heads + kv_head
"""

from __future__ import annotations

from dataclasses import dataclass

from pyferrum_kv.int8_kv.checks import check_head_dim, check_int

MAX_SLOTS = 2**31 - 1
"""Slots are int32 on the device."""


@dataclass(frozen=True, slots=True)
class KvLayout:
    """The dimensions of a paged INT8 KV cache; K and V pools are alike.

    k_pool, v_pool:      int8    [num_blocks, block_size, num_kv_heads, head_dim]
    k_scales, v_scales:  float16 [num_blocks, block_size, num_kv_heads]

    >>> layout = KvLayout(num_blocks=64, block_size=16, num_kv_heads=8, head_dim=128)
    >>> layout.num_slots, layout.total_bytes, layout.fp16_bytes    # 1024 tokens: 130/256 of fp16
    (1024, 2129920, 4194304)
    """

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "num_kv_heads"):
            value = check_int("KvLayout", name, getattr(self, name), 1, MAX_SLOTS)
            object.__setattr__(self, name, value)  # a NumPy integer becomes an int
        object.__setattr__(self, "head_dim", check_head_dim("KvLayout", self.head_dim))
        check_int("KvLayout", "num_blocks * block_size", self.num_slots, 1, MAX_SLOTS)

    @property
    def num_slots(self) -> int:
        """Tokens that fit."""
        return self.num_blocks * self.block_size

    @property
    def kv_block_stride(self) -> int:
        """Codes from a block to the next."""
        return self.block_size * self.num_kv_heads * self.head_dim

    @property
    def scale_block_stride(self) -> int:
        """Scales from a block to the next."""
        return self.block_size * self.num_kv_heads

    @property
    def num_codes(self) -> int:
        """Elements of k_pool, and of v_pool."""
        return self.num_blocks * self.kv_block_stride

    @property
    def num_scales(self) -> int:
        """Elements of k_scales, and of v_scales."""
        return self.num_blocks * self.scale_block_stride

    @property
    def total_bytes(self) -> int:
        """Codes and scales of K and V."""
        return 2 * (self.num_codes + 2 * self.num_scales)

    @property
    def fp16_bytes(self) -> int:
        """What the same tokens take as fp16 K and V."""
        return 4 * self.num_codes

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens of one sequence take."""
        return -(-num_tokens // self.block_size)

    def alignment(self, *addresses: int) -> int:
        """Bytes, up to 16, that divide the addresses of all blocks of code pools at `addresses`."""
        return _alignment(self.kv_block_stride, addresses)

    def scale_alignment(self, *addresses: int) -> int:
        """Bytes, up to 16, that divide the addresses of all blocks of scales at `addresses`."""
        return _alignment(2 * self.scale_block_stride, addresses)

    def code_offset(self, slot: int, kv_head: int, d: int = 0) -> int:
        """Element of k_pool or v_pool that holds (slot, kv_head, d)."""
        block, block_offset = divmod(slot, self.block_size)
        row = block_offset * self.num_kv_heads + kv_head
        return block * self.kv_block_stride + row * self.head_dim + d

    def scale_offset(self, slot: int, kv_head: int) -> int:
        """Element of k_scales or v_scales that holds (slot, kv_head)."""
        block, block_offset = divmod(slot, self.block_size)
        return block * self.scale_block_stride + block_offset * self.num_kv_heads + kv_head


def _alignment(stride_bytes: int, addresses: tuple[int, ...]) -> int:
    bits = 16 | stride_bytes
    for address in addresses:
        bits |= address
    return bits & -bits
