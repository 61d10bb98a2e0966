// row_tile.cuh - how the general decode entries spread query rows over CTAs, head_dim over lanes, tokens over steps.
#pragma once
#include "paged_kv.cuh"

#define WARPS 4
#define ROWS 8
#define STEPS 2
#define ALL_LANES 0xffffffffu

// What the rows of this CTA have in common.
struct RowTile {
    i32 sequence, kv_head, split, first_row, num_rows;  // rows first_row .. first_row + num_rows - 1 of the KV head
    i32 q_per_kv, q_len;
    i64 counter;

    DEVICE_MEMBER void init(i32 heads_of_a_kv_head, i32 query_tokens, i32 kv_heads, i32 num_splits) {
        q_per_kv = heads_of_a_kv_head;
        q_len = query_tokens;
        const i32 rows = q_per_kv * q_len;
        u32 row_tiles = (u32)(rows + ROWS - 1) / ROWS;
        u32 work = blockIdx.x;
        u32 tile = work % row_tiles;
        work /= row_tiles;
        kv_head = (i32)(work % (u32)kv_heads);
        work /= (u32)kv_heads;
        split = (i32)(work % (u32)num_splits);
        sequence = (i32)(work / (u32)num_splits);
        first_row = (i32)tile * ROWS;
        num_rows = min(rows - first_row, ROWS);
        counter = ((i64)sequence * kv_heads + kv_head) * row_tiles + tile;
    }
    DEVICE_MEMBER i32 query_token(i32 row) const { return (first_row + row) / q_per_kv; }
    DEVICE_MEMBER i32 q_head(i32 row) const { return kv_head * q_per_kv + (first_row + row) % q_per_kv; }
    DEVICE_MEMBER i64 token_row(i32 row) const { return (i64)sequence * q_len + query_token(row); }
};

// How the lanes of a warp share tokens: 2^lanes_log2 lanes hold the head_dim of one.
struct LaneMap {
    i32 lanes_log2, chunk, token, tokens_per_step;
    i32 d;  // first of this lane's 8; lanes past head_dim repeat d = 0 against a q of zeros

    DEVICE_MEMBER void init(i32 head_dim) {
        i32 lane = threadIdx.x & 31;
        lanes_log2 = 32 - __clz(head_dim / 8 - 1);
        chunk = lane & ((1 << lanes_log2) - 1);
        token = lane >> lanes_log2;
        tokens_per_step = 32 >> lanes_log2;
        d = chunk * 8 < head_dim ? chunk * 8 : 0;
    }
    DEVICE_MEMBER bool holds_result(i32 head_dim) const { return token == 0 && chunk * 8 < head_dim; }
    // Index of q[row, d] in shared memory: halves of 4 apart, so that a group's 16-byte reads are contiguous.
    DEVICE_MEMBER i32 q_index(i32 row, i32 at) const {
        return ((((row * 2 + (at >> 2 & 1)) << lanes_log2) + (at >> 3)) << 2) + (at & 3);
    }
};

// Eight neighbouring elements of a row.
template <typename element_t>
struct Eight {
    uint4 words;
    DEVICE_MEMBER void widen(f32 (&x)[8]) const {
        widen2<element_t>(words.x, x[0], x[1]);
        widen2<element_t>(words.y, x[2], x[3]);
        widen2<element_t>(words.z, x[4], x[5]);
        widen2<element_t>(words.w, x[6], x[7]);
    }
};
template <>
struct Eight<i8> {
    uint2 words;
    DEVICE_MEMBER void widen(f32 (&x)[8]) const {
        widen4(words.x, x);
        widen4(words.y, x + 4);
    }
};

// The tokens a warp folds at once, STEPS for each lane: where they lie, then what lies there.
template <typename element_t>
struct TokenTile {
    i32 block[STEPS], block_offset[STEPS];
    Eight<element_t> k[STEPS], v[STEPS];
    f32 k_scale[STEPS], v_scale[STEPS];  // 1 where there are none

    // Past the end, the last token again: an address that is good, for a score that will be hidden.
    DEVICE_MEMBER void locate(i32 first, i32 end, const LaneMap& map, const BlockDivider& blocks, const i32* table) {
#pragma unroll
        for (i32 i = 0; i < STEPS; i++) {
            i32 logical_block;
            blocks.divide(min(first + i * map.tokens_per_step + map.token, end - 1), logical_block, block_offset[i]);
            block[i] = table[logical_block];
        }
    }
    DEVICE_MEMBER void load(const PagedKv& kv, const element_t* k_pool, const element_t* v_pool,
                            const f16* k_scales, const f16* v_scales, i32 kv_head, i32 d, i32 num_blocks) {
#pragma unroll
        for (i32 i = 0; i < STEPS; i++) {
            const bool inside = (u32)block[i] < (u32)num_blocks;
            const i32 physical = inside ? block[i] : 0;
            const i64 code = kv.code_offset(physical, block_offset[i], kv_head) + d;
            k[i] = *(const Eight<element_t>*)(k_pool + code);
            v[i] = *(const Eight<element_t>*)(v_pool + code);
            if constexpr (IS_I8<element_t>) {
                const i64 scale = kv.scale_offset(physical, block_offset[i], kv_head);
                k_scale[i] = inside ? widen(k_scales[scale]) : NAN_F32;
                v_scale[i] = widen(v_scales[scale]);
            } else {
                k_scale[i] = inside ? 1.0f : NAN_F32;
                v_scale[i] = 1.0f;
            }
        }
    }
};
