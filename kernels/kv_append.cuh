// kv_append.cuh - a row of K and the same of V, from where they are to their slot: what the append entries share.
//
// A row, the head_dim values of one (token, KV head), is held by head_dim / (8 * CHUNKS) lanes, rounded up to a power of
// two, never across warps. A lane holds CHUNKS times 8 neighbouring d; chunk c of all lanes is contiguous, so that
// requests cover whole sectors.
#pragma once
#include "kv_quantize.cuh"
#include "paged_kv.cuh"

#define INT8_KV_CACHE_APPEND_PARAMS(half_t)                                                                     \
    const half_t* __restrict__ k,            /* [num_tokens, num_kv_heads, head_dim], strided */                \
    const half_t* __restrict__ v,            /* [num_tokens, num_kv_heads, head_dim], strided */                \
    i8* __restrict__ k_pool,                 /* [num_blocks, block_size, num_kv_heads, head_dim] */             \
    i8* __restrict__ v_pool,                 /* [num_blocks, block_size, num_kv_heads, head_dim] */             \
    f16* __restrict__ k_scales,              /* [num_blocks, block_size, num_kv_heads] */                       \
    f16* __restrict__ v_scales,              /* [num_blocks, block_size, num_kv_heads] */                       \
    const i32* __restrict__ slot_mapping,    /* [num_tokens] */                                                 \
    i64 num_slots,                           /* num_blocks * block_size */                                      \
    i64 k_token_stride,                      /* elements */                                                     \
    i64 k_head_stride,                       /* elements */                                                     \
    i64 v_token_stride,                      /* elements */                                                     \
    i64 v_head_stride,                       /* elements */                                                     \
    i64 kv_block_stride,                     /* codes from a block to the next */                               \
    i64 scale_block_stride,                  /* scales from a block to the next */                              \
    i32 num_tokens,                                                                                             \
    i32 num_kv_heads,                                                                                           \
    i32 head_dim,                                                                                               \
    i32 block_size

// Which row of the CTA's, and which chunks of 8 of it, are this lane's.
struct RowLanes {
    u32 chunks;
    i32 lanes_log2;
    u32 lane;
    u32 rows_at_once;  // of a CTA
    u32 row;           // of those

    DEVICE_MEMBER void init(i32 head_dim, i32 chunks_a_lane, i32 threads) {
        chunks = (u32)head_dim / 8;
        lanes_log2 = 32 - __clz((chunks + chunks_a_lane - 1) / chunks_a_lane - 1);
        lane = threadIdx.x & ((1 << lanes_log2) - 1);
        rows_at_once = (u32)threads >> lanes_log2;
        row = threadIdx.x >> lanes_log2;
    }
    DEVICE_MEMBER u32 chunk(i32 c) const { return lane + (c << lanes_log2); }
};

// 16-byte requests, if the address and both strides allow them.
template <typename half_t>
DEVICE bool is_vector(const half_t* x, i64 token_stride, i64 head_stride) {
    return (((u64)x | (u64)(token_stride | head_stride) * 2) & 15) == 0;
}

// What a lane holds of one row, still packed; chunks past head_dim are zeros.
template <typename half_t, i32 CHUNKS>
struct KvRow {
    uint4 k[CHUNKS];
    uint4 v[CHUNKS];
    i32 kv_head;
    i32 slot;

    // Ask for everything; no load waits for another.
    DEVICE_MEMBER void load(const RowLanes& lanes, bool exists, u32 token, const half_t* k_row, bool k_vector,
                            const half_t* v_row, bool v_vector, const i32* slot_mapping) {
#pragma unroll
        for (i32 c = 0; c < CHUNKS; c++) {
            const u32 chunk = lanes.chunk(c);
            const bool held = exists && chunk < lanes.chunks;
            k[c] = held ? load8<half_t>(k_row + chunk * 8, k_vector) : make_uint4(0, 0, 0, 0);
            v[c] = held ? load8<half_t>(v_row + chunk * 8, v_vector) : make_uint4(0, 0, 0, 0);
        }
        slot = exists ? slot_mapping[token] : -1;
    }

    // Quantise, and write unless the slot says not to. All lanes of the warp must come.
    DEVICE_MEMBER void store(const RowLanes& lanes, const PagedKv& kv, i64 num_slots, i32 block_size, i8* k_pool,
                             i8* v_pool, f16* k_scales, f16* v_scales) const {
        u32 k_pair = 0, v_pair = 0;
#pragma unroll
        for (i32 c = 0; c < CHUNKS; c++) {
            k_pair = max2(half_t{}, k_pair, amax2<half_t>(k[c]));
            v_pair = max2(half_t{}, v_pair, amax2<half_t>(v[c]));
        }
        f32 k_amax, v_amax;
        widen2<half_t>(row_amax2<half_t>(k_pair, v_pair, lanes.lanes_log2), k_amax, v_amax);
        if (slot < 0 || slot >= num_slots) return;

        RowScale k_scale, v_scale;
        k_scale.init(k_amax);
        v_scale.init(v_amax);
        const i32 block = (u32)slot / (u32)block_size;
        const i32 block_offset = slot - block * block_size;
        const i64 codes = kv.code_offset(block, block_offset, kv_head);
#pragma unroll
        for (i32 c = 0; c < CHUNKS; c++) {
            const u32 chunk = lanes.chunk(c);
            if (chunk >= lanes.chunks) break;
            *(uint2*)(k_pool + codes + chunk * 8) = k_scale.codes8<half_t>(k[c]);
            *(uint2*)(v_pool + codes + chunk * 8) = v_scale.codes8<half_t>(v[c]);
        }
        if (lanes.lane == 0) {
            const i64 scale = kv.scale_offset(block, block_offset, kv_head);
            k_scales[scale] = k_scale.stored;
            v_scales[scale] = v_scale.stored;
        }
    }
};
