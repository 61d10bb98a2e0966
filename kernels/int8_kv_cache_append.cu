// int8_kv_cache_append.cu - quantise new K and V tokens to INT8 and write them to their slots of a paged KV cache.
//
// MATH    Each (token, KV head) row of K and of V alone, as kv_quantize.cuh says: |x - code * scale| <= scale / 2, and
//         no code passes 127. A row with a NaN or an infinity, or (bf16) with max|x| / 127 above fp16's 65504, stores a
//         NaN scale and zero codes: it poisons what attends to it and is never silently finite.
//
// TILES   grid   ceil(num_tokens * num_kv_heads / rows a CTA)
//         CTA    THREADS threads; head_dim / 16 lanes, rounded up to a power of two, hold a row of K and the same of V
//         lane   CHUNKS times 8 neighbouring d, a 16-byte load and an 8-byte store each, of K and of V; chunk c of all
//                lanes of a row is contiguous, so that requests cover whole sectors
//
// MEMORY  pools and scales: paged_kv.cuh. Nothing is shared. Strides and offsets are int64.
//         K and V are asked for together with the slot and not after it: one latency and not two. A skipped token is
//         read in vain. A slot of -1, or any other outside [0, num_slots), writes nothing. Slots must be distinct.
//
// COST    reads 4 * num_kv_heads * head_dim bytes a token, writes 2 * num_kv_heads * (head_dim + 2), each once
// NEEDS   head_dim a multiple of 8 up to 256; num_tokens * num_kv_heads below 2^31; pools and kv_block_stride aligned to
//         8 bytes. K or V that is not aligned to 16 bytes, or whose strides are no multiple of 8 elements, is read by
//         the element.
// TWIN    pyferrum_kv/reference/quantize.py::quantize
#include "kv_quantize.cuh"
#include "paged_kv.cuh"

#define THREADS 128
#define CHUNKS 2
#define ROWS 1       // rows a lane takes part in, all asked for before any is used
#define MIN_CTAS 12  // an SM: 40 registers, and nothing spilled

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

// What a lane holds of one row, still packed.
struct Row {
    uint4 k[CHUNKS];
    uint4 v[CHUNKS];
    i32 kv_head;
    i32 slot;
};

template <typename half_t>
DEVICE void int8_kv_cache_append_body(INT8_KV_CACHE_APPEND_PARAMS(half_t)) {
    // which rows, and which chunks of 8 of them
    const u32 chunks = (u32)head_dim / 8;
    const i32 lanes_log2 = 32 - __clz((chunks + CHUNKS - 1) / CHUNKS - 1);
    const u32 lane = threadIdx.x & ((1 << lanes_log2) - 1);
    const u32 rows_at_once = THREADS >> lanes_log2;
    const u32 first_row = blockIdx.x * rows_at_once * ROWS + (threadIdx.x >> lanes_log2);
    const u32 num_rows = (u32)num_tokens * (u32)num_kv_heads;
    const bool k_vector = (((u64)k | (u64)(k_token_stride | k_head_stride) * 2) & 15) == 0;
    const bool v_vector = (((u64)v | (u64)(v_token_stride | v_head_stride) * 2) & 15) == 0;

    // ask for all of them; chunks past head_dim and rows past the end are zeros
    Row rows[ROWS];
#pragma unroll
    for (i32 r = 0; r < ROWS; r++) {
        Row& row = rows[r];
        const u32 index = first_row + r * rows_at_once;
        const u32 token = index / (u32)num_kv_heads;
        row.kv_head = (i32)(index - token * (u32)num_kv_heads);
        const half_t* k_row = k + (i32)token * k_token_stride + row.kv_head * k_head_stride;
        const half_t* v_row = v + (i32)token * v_token_stride + row.kv_head * v_head_stride;
#pragma unroll
        for (i32 c = 0; c < CHUNKS; c++) {
            const u32 chunk = lane + (c << lanes_log2);
            const bool held = index < num_rows && chunk < chunks;
            row.k[c] = held ? load8<half_t>(k_row + chunk * 8, k_vector) : make_uint4(0, 0, 0, 0);
            row.v[c] = held ? load8<half_t>(v_row + chunk * 8, v_vector) : make_uint4(0, 0, 0, 0);
        }
        row.slot = index < num_rows ? slot_mapping[token] : -1;
    }

    const PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, head_dim};
#pragma unroll
    for (i32 r = 0; r < ROWS; r++) {
        const Row& row = rows[r];
        u32 k_pair = 0, v_pair = 0;
#pragma unroll
        for (i32 c = 0; c < CHUNKS; c++) {
            k_pair = max2(half_t{}, k_pair, amax2<half_t>(row.k[c]));
            v_pair = max2(half_t{}, v_pair, amax2<half_t>(row.v[c]));
        }
        f32 k_amax, v_amax;
        widen2<half_t>(row_amax2<half_t>(k_pair, v_pair, lanes_log2), k_amax, v_amax);
        if (row.slot < 0 || row.slot >= num_slots) continue;

        RowScale k_scale, v_scale;
        k_scale.init(k_amax);
        v_scale.init(v_amax);
        const i32 block = (u32)row.slot / (u32)block_size;
        const i32 block_offset = row.slot - block * block_size;
        const i64 codes = kv.code_offset(block, block_offset, row.kv_head);
#pragma unroll
        for (i32 c = 0; c < CHUNKS; c++) {
            const u32 chunk = lane + (c << lanes_log2);
            if (chunk >= chunks) break;
            *(uint2*)(k_pool + codes + chunk * 8) = k_scale.codes8<half_t>(row.k[c]);
            *(uint2*)(v_pool + codes + chunk * 8) = v_scale.codes8<half_t>(row.v[c]);
        }
        if (lane == 0) {
            const i64 scale = kv.scale_offset(block, block_offset, row.kv_head);
            k_scales[scale] = k_scale.stored;
            v_scales[scale] = v_scale.stored;
        }
    }
}

#define INT8_KV_CACHE_APPEND(NAME, half_t)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, MIN_CTAS) NAME(                                       \
        INT8_KV_CACHE_APPEND_PARAMS(half_t)) {                                                                  \
        int8_kv_cache_append_body<half_t>(k, v, k_pool, v_pool, k_scales, v_scales, slot_mapping, num_slots,    \
                                          k_token_stride, k_head_stride, v_token_stride, v_head_stride,         \
                                          kv_block_stride, scale_block_stride, num_tokens, num_kv_heads,        \
                                          head_dim, block_size);                                                \
    }

// LIMITS head_dim 8..256 step 8; block_dim 128; dynamic_shared_bytes 0..0
INT8_KV_CACHE_APPEND(int8_kv_cache_append, f16)
INT8_KV_CACHE_APPEND(int8_kv_cache_append_bf16, bf16)
