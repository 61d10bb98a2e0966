// int8_kv_cache_append.cu - quantise new K and V tokens to INT8 and write them to their slots of a paged KV cache.
//
// MATH    Each (token, KV head) row of K and of V alone, as kv_quantize.cuh says: |x - code * scale| <= scale / 2, and
//         no code passes 127. A row with a NaN or an infinity, or (bf16) with max|x| / 127 above fp16's 65504, stores a
//         NaN scale and zero codes: it poisons what attends to it and is never silently finite.
//
// TILES   grid   ceil(num_tokens * num_kv_heads / rows a CTA)
//         CTA    THREADS threads; head_dim / 16 lanes, rounded up to a power of two, hold a row of K and the same of V
//         lane   CHUNKS times 8 neighbouring d, a 16-byte load and an 8-byte store each, of K and of V: kv_append.cuh
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
#include "kv_append.cuh"

#define THREADS 128
#define CHUNKS 2
#define ROWS 1       // rows a lane takes part in, all asked for before any is used
#define MIN_CTAS 12  // an SM: 40 registers, and nothing spilled

template <typename half_t>
DEVICE void int8_kv_cache_append_body(INT8_KV_CACHE_APPEND_PARAMS(half_t)) {
    RowLanes lanes;
    lanes.init(head_dim, CHUNKS, THREADS);
    const u32 first_row = blockIdx.x * lanes.rows_at_once * ROWS + lanes.row;
    const u32 num_rows = (u32)num_tokens * (u32)num_kv_heads;
    const bool k_vector = is_vector(k, k_token_stride, k_head_stride);
    const bool v_vector = is_vector(v, v_token_stride, v_head_stride);

    KvRow<half_t, CHUNKS> rows[ROWS];
#pragma unroll
    for (i32 r = 0; r < ROWS; r++) {
        const u32 index = first_row + r * lanes.rows_at_once;
        const u32 token = index / (u32)num_kv_heads;
        const i32 kv_head = (i32)(index - token * (u32)num_kv_heads);
        rows[r].kv_head = kv_head;
        rows[r].load(lanes, index < num_rows, token, k + (i32)token * k_token_stride + kv_head * k_head_stride,
                     k_vector, v + (i32)token * v_token_stride + kv_head * v_head_stride, v_vector, slot_mapping);
    }
    const PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, head_dim};
#pragma unroll
    for (i32 r = 0; r < ROWS; r++)
        rows[r].store(lanes, kv, num_slots, block_size, k_pool, v_pool, k_scales, v_scales);
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
