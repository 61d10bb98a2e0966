// paged_decode_attention_int8_d96.cu - paged_decode_attention_int8 on tensor cores for head_dim 96.
//
//   plain       8 query rows of a KV head at a time, blocks of 16 * n tokens
//   _any_block  blocks of any size, each token looked up
// The body and its tiles: paged_decode_mma.cuh.
#include "paged_decode_mma.cuh"

// LIMITS head_dim 96; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..25600
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d96, 96, 1, true, 2, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d96_bf16, 96, 1, true, 2, bf16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d96_any_block, 96, 1, false, 2, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d96_any_block_bf16, 96, 1, false, 2, bf16)
