// merge_attention_states.cu - merge attention over disjoint sets of tokens into attention over all of them.
//
// MATH    Of each (token, query head) row, over the states i that saw a token, lse_i > -inf:
//             lse = log(sum_i exp(lse_i))        out = sum_i exp(lse_i - lse) out_i
//         Sums are f32, in the order of the states; the largest lse_i is found first, so nothing overflows. A state with
//         lse -inf weighs nothing whatever lies in its rows, NaN included. No state at all gives 0 and -inf. An lse of
//         NaN or +inf gives NaN.
//
// TILES   grid   ceil(num_tokens * num_q_heads * chunks a row / 256)
//         CTA    256 threads
//         thread one chunk of one row, 16 bytes: 8 halves or 4 f32. It loops over the states, loads unrolled, since no
//                load waits for a weight.
//
// MEMORY  a state's rows are contiguous, [num_tokens, num_q_heads, head_dim]; states lie state_stride apart, their
//         lse lse_state_stride apart. Nothing is shared. Offsets are int64.
//
// COST    reads num_states rows and lse, writes one row and one lse. Each thread reads the lse of its row from L1 twice.
// NEEDS   head_dim a multiple of 8 up to 256; num_tokens * num_q_heads * chunks a row below 2^31; lse may be null.
//         States or out that are not aligned to 16 bytes, or a state_stride that is no multiple of a chunk, are moved
//         by the element.
// TWIN    pyferrum_kv/reference/attention.py::merge_attention_states
#include "types.cuh"

#define THREADS 256

DEVICE f32 widen(f32 x) { return x; }
DEVICE void narrow(f32 x, f32& y) { y = x; }

// The elements of one 16-byte word, as f32.
DEVICE void widen_words(f16, const u32* words, f32* x) {
#pragma unroll
    for (i32 w = 0; w < 4; w++) widen2<f16>(words[w], x[2 * w], x[2 * w + 1]);
}
DEVICE void widen_words(bf16, const u32* words, f32* x) {
#pragma unroll
    for (i32 w = 0; w < 4; w++) widen2<bf16>(words[w], x[2 * w], x[2 * w + 1]);
}
DEVICE void widen_words(f32, const u32* words, f32* x) {
#pragma unroll
    for (i32 w = 0; w < 4; w++) x[w] = __uint_as_float(words[w]);
}
DEVICE uint4 narrow_words(f16, const f32* x) {
    return make_uint4(narrow2<f16>(x[0], x[1]), narrow2<f16>(x[2], x[3]), narrow2<f16>(x[4], x[5]),
                      narrow2<f16>(x[6], x[7]));
}
DEVICE uint4 narrow_words(bf16, const f32* x) {
    return make_uint4(narrow2<bf16>(x[0], x[1]), narrow2<bf16>(x[2], x[3]), narrow2<bf16>(x[4], x[5]),
                      narrow2<bf16>(x[6], x[7]));
}
DEVICE uint4 narrow_words(f32, const f32* x) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
}

#define MERGE_ATTENTION_STATES_PARAMS(out_t)                                                                    \
    const out_t* __restrict__ partial_out,   /* [num_states, num_tokens, num_q_heads, head_dim] */              \
    const f32* __restrict__ partial_lse,     /* [num_states, num_tokens, num_q_heads] */                        \
    out_t* __restrict__ out,                 /* [num_tokens, num_q_heads, head_dim] */                          \
    f32* __restrict__ lse,                   /* [num_tokens, num_q_heads] */                                    \
    i64 state_stride,                        /* elements from a state to the next */                            \
    i64 lse_state_stride,                    /* elements from a state to the next */                            \
    i32 num_states,                                                                                             \
    i32 num_rows,                            /* num_tokens * num_q_heads */                                     \
    i32 head_dim

template <typename out_t>
DEVICE void merge_attention_states_body(MERGE_ATTENTION_STATES_PARAMS(out_t)) {
    constexpr i32 E = 16 / sizeof(out_t);
    const u32 chunks = (u32)head_dim / E;
    const u32 index = blockIdx.x * THREADS + threadIdx.x;
    const u32 row = index / chunks;
    if (row >= (u32)num_rows) return;
    const u32 chunk = index - row * chunks;
    const bool vector = (((u64)partial_out | (u64)out | (u64)state_stride * sizeof(out_t)) & 15) == 0;
    const out_t* from = partial_out + (i64)row * head_dim + chunk * E;
    out_t* to = out + (i64)row * head_dim + chunk * E;

    f32 m = LOWEST_F32;  // not -inf: then -inf - m is never NaN
    for (i32 s = 0; s < num_states; s++) m = fmaxf(m, partial_lse[s * lse_state_stride + row]);

    f32 l = 0.0f, o[E] = {};
#pragma unroll 4
    for (i32 s = 0; s < num_states; s++) {
        const f32 weight = exp2_approx((partial_lse[s * lse_state_stride + row] - m) * LOG2_E);
        f32 x[E];
        if (vector) {
            const uint4 words = *(const uint4*)(from + s * state_stride);
            widen_words(out_t{}, (const u32*)&words, x);
        } else {
#pragma unroll
            for (i32 e = 0; e < E; e++) x[e] = widen(from[s * state_stride + e]);
        }
        l += weight;
#pragma unroll
        for (i32 e = 0; e < E; e++) o[e] = weight == 0.0f ? o[e] : fmaf(weight, x[e], o[e]);
    }

    const f32 inverse = l == 0.0f ? 0.0f : 1.0f / l;
#pragma unroll
    for (i32 e = 0; e < E; e++) o[e] *= inverse;
    if (vector) {
        *(uint4*)to = narrow_words(out_t{}, o);
    } else {
#pragma unroll
        for (i32 e = 0; e < E; e++) narrow(o[e], to[e]);
    }
    if (lse && chunk == 0) lse[row] = l == 0.0f ? -INFINITY_F32 : m + log2_approx(l) * LN_2;
}

#define MERGE_ATTENTION_STATES(NAME, out_t)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(MERGE_ATTENTION_STATES_PARAMS(out_t)) {          \
        merge_attention_states_body<out_t>(partial_out, partial_lse, out, lse, state_stride, lse_state_stride,  \
                                           num_states, num_rows, head_dim);                                     \
    }

// LIMITS head_dim 8..256 step 8; block_dim 256; dynamic_shared_bytes 0..0
MERGE_ATTENTION_STATES(merge_attention_states, f16)
MERGE_ATTENTION_STATES(merge_attention_states_bf16, bf16)
MERGE_ATTENTION_STATES(merge_attention_states_f32, f32)
