// int8_kv_cache_append.cu - quantise new K and V tokens to INT8 and write them to their slots of a paged KV cache.
//
// MATH    Each (token, KV head) row of K and of V alone:
//             scale = max|x| / 127, rounded to fp16 upwards, at least 2^-24        code = rne(x / scale)
//         with that rounded scale, so |x - code * scale| <= scale / 2 and no code passes 127.
//         A row with a NaN or an infinity, or (bf16) with max|x| / 127 above fp16's 65504, stores a NaN scale and zero
//         codes: it poisons what attends to it and is never silently finite.
//
// TILES   grid   ceil(num_tokens * num_kv_heads / rows a CTA)
//         CTA    256 threads; head_dim / 8 lanes, rounded up to a power of two, hold one row of K and the same of V
//         lane   8 neighbouring d: one 16-byte load and one 8-byte store for each of K and V
//
// MEMORY  pools and scales: paged_kv.cuh. Nothing is shared. Strides and offsets are int64.
//         A slot of -1, or any other outside [0, num_slots), writes nothing. Slots must be distinct.
//
// COST    reads 4 * num_kv_heads * head_dim bytes a token, writes 2 * num_kv_heads * (head_dim + 2), each once
// NEEDS   head_dim a multiple of 8 up to 256; pools and kv_block_stride aligned to 8 bytes. K or V that is not aligned
//         to 16 bytes, or whose strides are no multiple of 8 elements, is read by the element.
// TWIN    pyferrum_kv/reference/quantize.py::quantize
#include "paged_kv.cuh"

#define THREADS 256
#define ALL_LANES 0xffffffffu

// Eight neighbouring elements of a row, as f32.
template <typename half_t>
DEVICE void load8(const half_t* row, bool vector, f32* x) {
    if (vector) {
        const uint4 words = *(const uint4*)row;
        widen2<half_t>(words.x, x[0], x[1]);
        widen2<half_t>(words.y, x[2], x[3]);
        widen2<half_t>(words.z, x[4], x[5]);
        widen2<half_t>(words.w, x[6], x[7]);
    } else {
#pragma unroll
        for (i32 e = 0; e < 8; e++) x[e] = widen(row[e]);
    }
}

// The row's max|x| as bits, by all lanes of the row. Bits order like magnitudes, with NaN above infinity, so a NaN
// is not lost as fmaxf would lose it.
DEVICE u32 row_amax_bits(const f32* x, i32 lanes_log2) {
    u32 amax = 0;
#pragma unroll
    for (i32 e = 0; e < 8; e++) amax = max(amax, __float_as_uint(x[e]) & 0x7fffffffu);
    for (i32 apart = 1 << lanes_log2 >> 1; apart; apart >>= 1)
        amax = max(amax, __shfl_xor_sync(ALL_LANES, amax, apart));
    return amax;
}

// max|x| / 127 in fp16, rounded upwards. To nearest, it is the right one or the one below; 127 * scale is exact
// in f32 (18 bits) and tells which.
DEVICE f16 row_scale(u32 amax_bits) {
    const f32 amax = __uint_as_float(amax_bits);
    f16 scale = narrowed<f16>(amax / 127.0f);
    if (127.0f * widen(scale) < amax) scale.bits += 1;
    scale.bits = max(scale.bits, 1);                    // an all-zero row: 2^-24, so that no scale is ever 0
    if (scale.bits >= 0x7c00) scale.bits = 0x7e00;      // infinity or NaN: the quiet NaN
    return scale;
}

// rne(x / scale) as the low byte of the result. The quotient is exact wherever it matters: x and scale have at most
// 11 bits, so x / scale is a tie, k + 0.5, or at least 2^-13 away from one; the residual x - y * scale is exact
// near a tie, and one step with it lands on the tie. Adding 1.5 * 2^23 rounds to an integer, half to even.
DEVICE u32 quantize(f32 x, f32 scale, f32 inverse) {
    f32 y = x * inverse;
    y = __fmaf_rn(__fmaf_rn(-y, scale, x), inverse, y);
    return __float_as_uint(y + 12582912.0f);
}

DEVICE u32 low_bytes(u32 a, u32 b, u32 c, u32 d) {
    return permute(permute(a, b, 0x0040), permute(c, d, 0x0040), 0x5410);
}

DEVICE void write_row(const f32* x, u32 amax_bits, i8* codes, f16* scale_at, bool first_lane) {
    const f16 stored = row_scale(amax_bits);
    const f32 scale = widen(stored);
    const f32 inverse = 1.0f / scale;
    u32 q[8];
#pragma unroll
    for (i32 e = 0; e < 8; e++) q[e] = stored.bits == 0x7e00 ? 0 : quantize(x[e], scale, inverse);
    *(uint2*)codes = make_uint2(low_bytes(q[0], q[1], q[2], q[3]), low_bytes(q[4], q[5], q[6], q[7]));
    if (first_lane) *scale_at = stored;
}

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

template <typename half_t>
DEVICE void int8_kv_cache_append_body(INT8_KV_CACHE_APPEND_PARAMS(half_t)) {
    // which row, and which 8 of it
    const i32 lanes_log2 = 32 - __clz(head_dim / 8 - 1);
    const i64 row = (i64)blockIdx.x * (THREADS >> lanes_log2) + (threadIdx.x >> lanes_log2);
    const i32 d = (threadIdx.x & ((1 << lanes_log2) - 1)) * 8;
    const bool in_row = d < head_dim && row < (i64)num_tokens * num_kv_heads;
    const i32 token = in_row ? (i32)(row / num_kv_heads) : 0;
    const i32 kv_head = in_row ? (i32)(row - (i64)token * num_kv_heads) : 0;
    const i32 slot = in_row ? slot_mapping[token] : -1;
    const bool kept = slot >= 0 && slot < num_slots;

    // the lanes of a row vote on its max|x|; lanes without elements hold zeros
    f32 k_row[8] = {}, v_row[8] = {};
    if (kept) {
        const bool k_vector = (((u64)k | (u64)(k_token_stride | k_head_stride) * 2) & 15) == 0;
        const bool v_vector = (((u64)v | (u64)(v_token_stride | v_head_stride) * 2) & 15) == 0;
        load8<half_t>(k + token * k_token_stride + kv_head * k_head_stride + d, k_vector, k_row);
        load8<half_t>(v + token * v_token_stride + kv_head * v_head_stride + d, v_vector, v_row);
    }
    const u32 k_amax = row_amax_bits(k_row, lanes_log2);
    const u32 v_amax = row_amax_bits(v_row, lanes_log2);
    if (!kept) return;

    const PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, head_dim};
    const i32 block = slot / block_size;
    const i64 codes = kv.code_offset(block, slot - block * block_size, kv_head) + d;
    const i64 scale = kv.scale_offset(block, slot - block * block_size, kv_head);
    write_row(k_row, k_amax, k_pool + codes, k_scales + scale, d == 0);
    write_row(v_row, v_amax, v_pool + codes, v_scales + scale, d == 0);
}

#define INT8_KV_CACHE_APPEND(NAME, half_t)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                                 \
        INT8_KV_CACHE_APPEND_PARAMS(half_t)) {                                                                  \
        int8_kv_cache_append_body<half_t>(k, v, k_pool, v_pool, k_scales, v_scales, slot_mapping, num_slots,    \
                                          k_token_stride, k_head_stride, v_token_stride, v_head_stride,         \
                                          kv_block_stride, scale_block_stride, num_tokens, num_kv_heads,        \
                                          head_dim, block_size);                                                \
    }

// LIMITS head_dim 8..256 step 8; block_dim 256; dynamic_shared_bytes 0..0
INT8_KV_CACHE_APPEND(int8_kv_cache_append, f16)
INT8_KV_CACHE_APPEND(int8_kv_cache_append_bf16, bf16)
