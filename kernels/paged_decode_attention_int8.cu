// paged_decode_attention_int8.cu - one decode step of attention over an INT8 paged KV cache; every shape, no tensor cores.
//
// Math, tiles, memory, cost and limits: paged_decode_general.cuh.
#include "paged_decode_general.cuh"

#define PAGED_DECODE_ATTENTION_INT8(NAME, half_t)                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) NAME(          \
        PAGED_DECODE_PARAMS(half_t)) {                                         \
        paged_decode_attention<half_t, i8>(PAGED_DECODE_ARGS);                 \
    }

// LIMITS head_dim 8..256 step 8; q_len 1..8; block_dim 128; dynamic_shared_bytes 0..33280
PAGED_DECODE_ATTENTION_INT8(paged_decode_attention_int8, f16)
PAGED_DECODE_ATTENTION_INT8(paged_decode_attention_int8_bf16, bf16)
