// paged_decode_attention_int8_d32.cu - paged_decode_attention_int8 on tensor cores for head_dim 32.
//
//   plain       8 query rows of a KV head at a time, blocks of 16 * n tokens
//   _any_block  blocks of any size, each token looked up
// The body and its tiles: paged_decode_mma.cuh.
#include "paged_decode_mma.cuh"

// LIMITS head_dim 32; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..9216
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d32, 32, 1, true, 2, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d32_bf16, 32, 1, true, 2, bf16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d32_any_block, 32, 1, false, 2, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d32_any_block_bf16, 32, 1, false, 2, bf16)
