// paged_kv.cuh - where the code and the scale of (token, kv_head, d) lie: the only place where an offset is computed.
//
//   k_pool, v_pool      int8 [num_blocks, block_size, num_kv_heads, head_dim]   head_dim contiguous
//   k_scales, v_scales  fp16 [num_blocks, block_size, num_kv_heads]
//   block_table         int32: logical block of a sequence -> physical block
//   slot = block * block_size + block_offset
//
// Slots and blocks are int32, element offsets int64: a pool passes 2^31 elements at 2 GiB.
// The host twin is pyferrum_kv/int8_kv/layout.py.
#pragma once
#include "types.cuh"

// t / block_size and t % block_size for 0 <= t < 2^31, any block_size, without a division in the loop:
// floor(2^32 - 1 / block_size) as a multiplier gives the quotient or one less.
struct BlockDivider {
    u32 block_size;
    u32 multiplier;

    DEVICE_MEMBER void init(i32 size) {
        block_size = (u32)size;
        multiplier = 0xffffffffu / block_size;
    }
    DEVICE_MEMBER void divide(i32 t, i32& block, i32& block_offset) const {
        u32 quotient = __umulhi((u32)t, multiplier);
        u32 remainder = (u32)t - quotient * block_size;
        if (remainder >= block_size) {
            quotient += 1;
            remainder -= block_size;
        }
        block = (i32)quotient;
        block_offset = (i32)remainder;
    }
};

struct PagedKv {
    i64 kv_block_stride;     // codes from one block to the next
    i64 scale_block_stride;  // scales from one block to the next
    i32 num_kv_heads;
    i32 head_dim;

    DEVICE_MEMBER i64 scale_offset(i32 block, i32 block_offset, i32 kv_head) const {
        return block * scale_block_stride + (i64)block_offset * num_kv_heads + kv_head;
    }
    DEVICE_MEMBER i64 code_offset(i32 block, i32 block_offset, i32 kv_head) const {
        return block * kv_block_stride + ((i64)block_offset * num_kv_heads + kv_head) * head_dim;
    }
};
