// paged_decode_params.cuh - the parameter lists of paged_decode_attention_int8 and of paged_decode_attention, and what
// they mean. The second is the first over a cache of fp16 or bf16: no scales, each k_scale below is 1.
//
// Query row: (query token i of sequence b, query head h), row b * q_len + i of q, out and lse.
//   position   q_pos = kv_len - q_len + i: the sequence's q_len newest tokens are in the cache already
//   visible    max(0, q_pos - window_left) <= t <= q_pos         window_left -1: no left bound
//   logit      x = softmax_scale * k_scale[t] * sum_d (q * k_channel_factors)[d] * K[t, d]
//              logit_softcap > 0:  x = logit_softcap * tanh(x / logit_softcap)
//              alibi_slopes:       x = x + alibi_slopes[h] * (t - q_pos)
//   sinks      one more token of logit sinks[h] and value 0: it joins l (and lse), never o
//
// A split is a range of tokens of one sequence given to one CTA.
//   split_len 0   the visible range is cut into min(num_splits, its 16-token tiles) nearly equal parts
//   split_len > 0 split s holds tokens [s * split_len, (s + 1) * split_len): the same cut whatever the batch is
// workspace holds the states of the splits, each o[head_dim], m, l and 2 unused: how many and in which order is the
// entry's own affair, pyferrum_kv/int8_kv/plan.py knows the size.
// counters, one a (sequence, KV head, row tile), are 0 before and after a launch: the last CTA to arrive merges the
// splits in their order and puts its counter back to 0.
#pragma once
#include "types.cuh"

#define PAGED_DECODE_CACHE(half_t, element_t)                                                                   \
    const half_t* __restrict__ q,                /* [batch_size * q_len, num_q_heads, head_dim], strided */     \
    const element_t* __restrict__ k_pool,        /* [num_blocks, block_size, num_kv_heads, head_dim] */         \
    const element_t* __restrict__ v_pool         /* [num_blocks, block_size, num_kv_heads, head_dim] */

#define PAGED_DECODE_SCALES                                                                                     \
    const f16* __restrict__ k_scales,            /* [num_blocks, block_size, num_kv_heads] */                   \
    const f16* __restrict__ v_scales             /* [num_blocks, block_size, num_kv_heads] */

#define PAGED_DECODE_TENSORS(half_t)                                                                            \
    const i32* __restrict__ block_table,         /* [batch_size, max_blocks_per_seq], strided */                \
    const i32* __restrict__ kv_lens,             /* [batch_size], or null: each is max_kv_len */                \
    half_t* __restrict__ out,                    /* [batch_size * q_len, num_q_heads, head_dim], strided */     \
    f32* __restrict__ lse,                       /* [batch_size * q_len, num_q_heads], or null */               \
    f32* __restrict__ workspace,                 /* states of the splits; unused when num_splits is 1 */        \
    u32* __restrict__ counters,                  /* zeros; unused when num_splits is 1 */                       \
    const f32* __restrict__ sinks,               /* [num_q_heads], or null */                                   \
    const f32* __restrict__ alibi_slopes,        /* [num_q_heads], or null */                                   \
    const f32* __restrict__ k_channel_factors,   /* [num_kv_heads, head_dim], or null */                        \
    i64 q_token_stride,                          /* elements */                                                 \
    i64 q_head_stride,                           /* elements */                                                 \
    i64 out_token_stride,                        /* elements */                                                 \
    i64 out_head_stride,                         /* elements */                                                 \
    i64 kv_block_stride                          /* elements from a block to the next */

#define PAGED_DECODE_SIZES                                                                                      \
    i64 block_table_stride,                      /* entries from a sequence to the next */                      \
    i32 batch_size,                                                                                             \
    i32 q_len,                                   /* 1..8 query tokens a sequence, causal */                     \
    i32 num_q_heads,                                                                                            \
    i32 num_kv_heads,                                                                                           \
    i32 head_dim,                                                                                               \
    i32 block_size,                                                                                             \
    i32 num_blocks,                                                                                             \
    i32 max_kv_len,                              /* bounds kv_lens */                                           \
    i32 num_splits,                              /* most splits a sequence is cut into */                       \
    i32 split_len,                               /* 0: balanced; else tokens a split */                         \
    i32 window_left,                             /* -1: off */                                                  \
    f32 softmax_scale,                                                                                          \
    f32 logit_softcap                            /* 0: off */

// of a body that serves both; of the entries over int8; of the entries over fp16 and bf16
#define PAGED_DECODE_BODY_PARAMS(half_t, element_t)                                                              \
    PAGED_DECODE_CACHE(half_t, element_t), PAGED_DECODE_SCALES, PAGED_DECODE_TENSORS(half_t),                    \
        i64 scale_block_stride, /* scales from a block to the next */ PAGED_DECODE_SIZES
#define PAGED_DECODE_PARAMS(half_t) PAGED_DECODE_BODY_PARAMS(half_t, i8)
#define PAGED_DECODE_HALF_PARAMS(half_t)                                                                         \
    PAGED_DECODE_CACHE(half_t, half_t), PAGED_DECODE_TENSORS(half_t), PAGED_DECODE_SIZES
#define PAGED_DECODE_NO_SCALES                                                                                   \
    const f16 *k_scales = nullptr, *v_scales = nullptr;                                                          \
    const i64 scale_block_stride = 0

// The same names, to hand the list on to a body.
#define PAGED_DECODE_ARGS                                                                                       \
    q, k_pool, v_pool, k_scales, v_scales, block_table, kv_lens, out, lse, workspace, counters, sinks,          \
        alibi_slopes, k_channel_factors, q_token_stride, q_head_stride, out_token_stride, out_head_stride,      \
        kv_block_stride, scale_block_stride, block_table_stride, batch_size, q_len, num_q_heads, num_kv_heads,  \
        head_dim, block_size, num_blocks, max_kv_len, num_splits, split_len, window_left, softmax_scale,        \
        logit_softcap

// Split `split` of a sequence: its tokens [begin, end), and how many splits of the sequence hold any.
struct SplitRange {
    i32 begin, end, active_splits;

    DEVICE_MEMBER void init(i32 kv_len, i32 q_len, i32 window_left, i32 num_splits, i32 split_len, i32 split) {
        i32 first = window_left < 0 ? 0 : max(kv_len - q_len - window_left, 0);
        if (split_len > 0) {
            i32 first_split = first / split_len;
            active_splits = (kv_len + split_len - 1) / split_len - first_split;
            begin = (i32)min((i64)(first_split + split) * split_len, (i64)kv_len);
            end = (i32)min((i64)begin + split_len, (i64)kv_len);
        } else {
            i32 first_tile = first / 16;
            i32 tiles = (kv_len + 15) / 16 - first_tile;
            active_splits = min(num_splits, tiles);
            i64 parts = max(active_splits, 1);
            begin = (first_tile + (i32)(split * (i64)tiles / parts)) * 16;
            end = min((first_tile + (i32)((split + 1) * (i64)tiles / parts)) * 16, kv_len);
        }
        begin = max(begin, first);
    }
};
