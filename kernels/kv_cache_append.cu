// kv_cache_append.cu - write new K and V tokens of fp16 or bf16 to their slots of a paged KV cache, as they are.
//
// MATH    k_pool[slot] = k[token], v_pool[slot] = v[token], slot = slot_mapping[token]
//
// TILES   grid   ceil(num_tokens * num_kv_heads * head_dim / 8 / 256)
//         lane   8 neighbouring d of one (token, KV head), of K and of V: 16 bytes each in and out
//
// MEMORY  pools: paged_kv.cuh. Nothing is shared. Strides and offsets are int64.
//         A slot of -1, or any other outside [0, num_slots), writes nothing. Slots must be distinct.
//
// COST    reads and writes 4 * num_kv_heads * head_dim bytes a token, each once
// NEEDS   head_dim a multiple of 8 up to 256; pools and kv_block_stride aligned to 16 bytes. K or V that is not aligned
//         to 16 bytes, or whose strides are no multiple of 8 elements, is read by the element.
// TWIN    pyferrum_kv/reference/append.py::kv_cache_append
#include "paged_kv.cuh"

#define THREADS 256

// Eight neighbouring elements of a row, bit for bit.
template <typename half_t>
DEVICE uint4 load8(const half_t* row, bool vector) {
    if (vector) return *(const uint4*)row;
    u32 words[4];
#pragma unroll
    for (i32 w = 0; w < 4; w++) words[w] = (u32)row[2 * w].bits | (u32)row[2 * w + 1].bits << 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

#define KV_CACHE_APPEND_PARAMS(half_t)                                                                          \
    const half_t* __restrict__ k,            /* [num_tokens, num_kv_heads, head_dim], strided */                \
    const half_t* __restrict__ v,            /* [num_tokens, num_kv_heads, head_dim], strided */                \
    half_t* __restrict__ k_pool,             /* [num_blocks, block_size, num_kv_heads, head_dim] */             \
    half_t* __restrict__ v_pool,             /* [num_blocks, block_size, num_kv_heads, head_dim] */             \
    const i32* __restrict__ slot_mapping,    /* [num_tokens] */                                                 \
    i64 num_slots,                           /* num_blocks * block_size */                                      \
    i64 k_token_stride,                      /* elements */                                                     \
    i64 k_head_stride,                       /* elements */                                                     \
    i64 v_token_stride,                      /* elements */                                                     \
    i64 v_head_stride,                       /* elements */                                                     \
    i64 kv_block_stride,                     /* elements from a block to the next */                            \
    i32 num_tokens,                                                                                             \
    i32 num_kv_heads,                                                                                           \
    i32 head_dim,                                                                                               \
    i32 block_size

template <typename half_t>
DEVICE void kv_cache_append_body(KV_CACHE_APPEND_PARAMS(half_t)) {
    // which token, KV head and 8 of its row
    const i32 lanes_a_row = head_dim / 8;
    const i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    const i64 row = i / lanes_a_row;
    if (row >= (i64)num_tokens * num_kv_heads) return;
    const i32 d = (i32)(i - row * lanes_a_row) * 8;
    const i32 token = (i32)(row / num_kv_heads);
    const i32 kv_head = (i32)(row - (i64)token * num_kv_heads);
    const i32 slot = slot_mapping[token];
    if (slot < 0 || slot >= num_slots) return;

    const bool k_vector = (((u64)k | (u64)(k_token_stride | k_head_stride) * 2) & 15) == 0;
    const bool v_vector = (((u64)v | (u64)(v_token_stride | v_head_stride) * 2) & 15) == 0;
    const uint4 k_words = load8(k + token * k_token_stride + kv_head * k_head_stride + d, k_vector);
    const uint4 v_words = load8(v + token * v_token_stride + kv_head * v_head_stride + d, v_vector);
    const PagedKv kv = {kv_block_stride, 0, num_kv_heads, head_dim};
    const i32 block = slot / block_size;
    const i64 to = kv.code_offset(block, slot - block * block_size, kv_head) + d;
    *(uint4*)(k_pool + to) = k_words;
    *(uint4*)(v_pool + to) = v_words;
}

#define KV_CACHE_APPEND(NAME, half_t)                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(KV_CACHE_APPEND_PARAMS(half_t)) {                \
        kv_cache_append_body<half_t>(k, v, k_pool, v_pool, slot_mapping, num_slots, k_token_stride,             \
                                     k_head_stride, v_token_stride, v_head_stride, kv_block_stride,             \
                                     num_tokens, num_kv_heads, head_dim, block_size);                           \
    }

// LIMITS head_dim 8..256 step 8; block_dim 256; dynamic_shared_bytes 0..0
KV_CACHE_APPEND(kv_cache_append, f16)
KV_CACHE_APPEND(kv_cache_append_bf16, bf16)
