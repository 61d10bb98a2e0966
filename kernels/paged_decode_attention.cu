// paged_decode_attention.cu - one decode step of attention over a paged KV cache of fp16 or bf16; every shape, no tensor cores.
//
// The twin of paged_decode_attention_int8, so that what INT8 gains and loses can be measured. q, out and the cache are of
// one type. Math, tiles, memory, cost and limits: paged_decode_general.cuh.
#include "paged_decode_general.cuh"

#define PAGED_DECODE_ATTENTION(NAME, half_t)                                   \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) NAME(          \
        PAGED_DECODE_HALF_PARAMS(half_t)) {                                    \
        PAGED_DECODE_NO_SCALES;                                                \
        paged_decode_attention<half_t, half_t>(PAGED_DECODE_ARGS);             \
    }

// LIMITS head_dim 8..256 step 8; q_len 1..8; block_dim 128; dynamic_shared_bytes 0..33280
PAGED_DECODE_ATTENTION(paged_decode_attention, f16)
PAGED_DECODE_ATTENTION(paged_decode_attention_bf16, bf16)
