// int8_kv_cache_append_rotary.cu - rotary embedding of new K and of q, then the append, in one launch.
//
// MATH    K and q: rotary.cuh, rounded to their half type. K so rounded, and V: kv_quantize.cuh. The codes are those of
//         rotating first and appending then, in every bit. A position outside [0, max_position) turns to NaN what it
//         should rotate: a NaN scale in the cache, NaN in q.
//
// TILES   grid   the CTAs of K and V, as in int8_kv_cache_append.cu, and after them those of q, a row a (token, q head)
//         CTA    THREADS threads; lanes of a row as in kv_append.cuh
//         lane   CHUNKS times 8 neighbouring d. Half-split pairs are half a row apart: where that is the distance of a
//                lane's own two chunks (rotary_dim = head_dim, a power of two) nothing more is read, else the partner
//                comes from L1 or L2.
//
// MEMORY  pools and scales: paged_kv.cuh. Nothing is shared. A row of q is read by its lanes, of one warp, before any
//         of them writes, so q_out may be q. A slot of -1, or outside the pool, writes nothing; its q is rotated.
//
// COST    the append's, and q once in and once out; cosines and sines of a token come from L1 but for the first head
// NEEDS   the append's; rotary_dim even, 2 to head_dim; num_tokens * num_q_heads below 2^31; q and q_out equal with
//         equal strides, or apart; q null or num_q_heads 0: K alone. What is not aligned to 16 bytes is moved by the
//         element.
// TWIN    pyferrum_kv/reference/rotary.py::rotary_embedding, pyferrum_kv/reference/append.py
#include "kv_append.cuh"
#include "rotary.cuh"

#define THREADS 128
#define CHUNKS 2

#define INT8_KV_CACHE_APPEND_ROTARY_PARAMS(half_t)                                                              \
    INT8_KV_CACHE_APPEND_PARAMS(half_t),                                                                        \
    const half_t* q,                         /* [num_tokens, num_q_heads, head_dim], strided */                 \
    half_t* q_out,                           /* [num_tokens, num_q_heads, head_dim], strided */                 \
    const i32* __restrict__ positions,       /* [num_tokens] */                                                 \
    const f32* __restrict__ cos_sin,         /* [max_position, rotary_dim], cosines first */                    \
    i64 q_token_stride,                      /* elements */                                                     \
    i64 q_head_stride,                       /* elements */                                                     \
    i64 q_out_token_stride,                  /* elements */                                                     \
    i64 q_out_head_stride,                   /* elements */                                                     \
    i32 num_q_heads,                                                                                            \
    i32 rotary_dim,                                                                                             \
    i32 max_position,                                                                                           \
    i32 interleaved                          /* 0: half-split */

// Elements of a row from `d` on; what the kernel may write is not read through the read-only cache.
template <typename half_t>
DEVICE uint4 load8_written(const half_t* from, bool vector) {
    if (vector) return *(const uint4*)from;
    u32 words[4];
#pragma unroll
    for (i32 w = 0; w < 4; w++) words[w] = (u32)from[2 * w].bits | (u32)from[2 * w + 1].bits << 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// The partners of the chunk at d, one by one: rotary_dim / 2 is no multiple of 8.
template <typename half_t>
DEVICE uint4 load_partners(const half_t* row, i32 d, const Rotary& rotary) {
    u32 bits[8];
#pragma unroll
    for (i32 e = 0; e < 8; e++) bits[e] = d + e < rotary.rotary_dim ? row[rotary.partner(d + e)].bits : 0;
    return make_uint4(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16, bits[4] | bits[5] << 16,
                      bits[6] | bits[7] << 16);
}

// The lane's chunks x of `row`, rotated.
template <typename half_t>
DEVICE void rotate_row(const RowLanes& lanes, const Rotary& rotary, const half_t* row, bool vector, bool exists,
                       uint4* x) {
    const bool own_pair = CHUNKS == 2 && rotary.whole && rotary.half == 8 << lanes.lanes_log2;
    uint4 partners[CHUNKS];
#pragma unroll
    for (i32 c = 0; c < CHUNKS; c++) {
        const i32 d = (i32)lanes.chunk(c) * 8;
        partners[c] = x[CHUNKS - 1 - c];
        if (exists && !rotary.interleaved && !own_pair && rotary.turns(d))
            partners[c] = rotary.whole ? load8_written<half_t>(row + rotary.partner(d), vector)
                                       : load_partners<half_t>(row, d, rotary);
    }
#pragma unroll
    for (i32 c = 0; c < CHUNKS; c++) {
        const i32 d = (i32)lanes.chunk(c) * 8;
        if (exists && rotary.turns(d)) x[c] = rotary.turned<half_t>(d, x[c], partners[c]);
    }
}

template <typename half_t>
DEVICE void rotate_q(const RowLanes& lanes, u32 index, INT8_KV_CACHE_APPEND_ROTARY_PARAMS(half_t)) {
    const u32 token = index / (u32)num_q_heads;
    const i64 q_head = index - token * (u32)num_q_heads;
    const bool exists = token < (u32)num_tokens;
    const bool vector = is_vector(q, q_token_stride, q_head_stride);
    const bool out_vector = is_vector<half_t>(q_out, q_out_token_stride, q_out_head_stride);
    const half_t* row = q + (i32)token * q_token_stride + q_head * q_head_stride;
    half_t* to = q_out + (i32)token * q_out_token_stride + q_head * q_out_head_stride;
    uint4 x[CHUNKS];
#pragma unroll
    for (i32 c = 0; c < CHUNKS; c++) {
        const u32 chunk = lanes.chunk(c);
        x[c] = make_uint4(0, 0, 0, 0);
        if (exists && chunk < lanes.chunks) x[c] = load8_written<half_t>(row + chunk * 8, vector);
    }
    Rotary rotary;
    rotary.init(cos_sin, exists ? positions[token] : -1, max_position, rotary_dim, interleaved != 0);
    rotate_row<half_t>(lanes, rotary, row, vector, exists, x);
    __syncwarp();  // all of the row is read before any of it is written
#pragma unroll
    for (i32 c = 0; c < CHUNKS; c++) {
        const u32 chunk = lanes.chunk(c);
        if (!exists || chunk >= lanes.chunks) break;
        if (out_vector) {
            *(uint4*)(to + chunk * 8) = x[c];
        } else {
            const u32 words[4] = {x[c].x, x[c].y, x[c].z, x[c].w};
#pragma unroll
            for (i32 e = 0; e < 8; e++) to[chunk * 8 + e].bits = (u16)(words[e / 2] >> e % 2 * 16);
        }
    }
}

template <typename half_t>
DEVICE void rotate_and_append(const RowLanes& lanes, u32 index, INT8_KV_CACHE_APPEND_ROTARY_PARAMS(half_t)) {
    const u32 token = index / (u32)num_kv_heads;
    const bool exists = token < (u32)num_tokens;
    const bool k_vector = is_vector(k, k_token_stride, k_head_stride);
    const bool v_vector = is_vector(v, v_token_stride, v_head_stride);
    KvRow<half_t, CHUNKS> held;
    held.kv_head = (i32)(index - token * (u32)num_kv_heads);
    const half_t* k_row = k + (i32)token * k_token_stride + held.kv_head * k_head_stride;
    const half_t* v_row = v + (i32)token * v_token_stride + held.kv_head * v_head_stride;
    held.load(lanes, exists, token, k_row, k_vector, v_row, v_vector, slot_mapping);
    Rotary rotary;
    rotary.init(cos_sin, exists ? positions[token] : -1, max_position, rotary_dim, interleaved != 0);
    rotate_row<half_t>(lanes, rotary, k_row, k_vector, exists, held.k);
    const PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, head_dim};
    held.store(lanes, kv, num_slots, block_size, k_pool, v_pool, k_scales, v_scales);
}

#define ROTARY_ARGUMENTS                                                                                        \
    k, v, k_pool, v_pool, k_scales, v_scales, slot_mapping, num_slots, k_token_stride, k_head_stride,           \
        v_token_stride, v_head_stride, kv_block_stride, scale_block_stride, num_tokens, num_kv_heads, head_dim, \
        block_size, q, q_out, positions, cos_sin, q_token_stride, q_head_stride, q_out_token_stride,            \
        q_out_head_stride, num_q_heads, rotary_dim, max_position, interleaved

#define INT8_KV_CACHE_APPEND_ROTARY(NAME, half_t)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(INT8_KV_CACHE_APPEND_ROTARY_PARAMS(half_t)) {    \
        RowLanes lanes;                                                                                         \
        lanes.init(head_dim, CHUNKS, THREADS);                                                                  \
        const u32 kv_rows = (u32)num_tokens * (u32)num_kv_heads;                                                \
        const u32 kv_ctas = (kv_rows + lanes.rows_at_once - 1) / lanes.rows_at_once;                            \
        if (blockIdx.x < kv_ctas)                                                                               \
            rotate_and_append<half_t>(lanes, blockIdx.x * lanes.rows_at_once + lanes.row, ROTARY_ARGUMENTS);    \
        else                                                                                                    \
            rotate_q<half_t>(lanes, (blockIdx.x - kv_ctas) * lanes.rows_at_once + lanes.row, ROTARY_ARGUMENTS); \
    }

// LIMITS head_dim 8..256 step 8; rotary_dim 2..256 step 2; block_dim 128; dynamic_shared_bytes 0..0
INT8_KV_CACHE_APPEND_ROTARY(int8_kv_cache_append_rotary, f16)
INT8_KV_CACHE_APPEND_ROTARY(int8_kv_cache_append_rotary_bf16, bf16)
