// paged_decode_attention_int8_d192.cu - paged_decode_attention_int8 on tensor cores for head_dim 192.
//
//   plain       8 query rows of a KV head at a time, blocks of 16 * n tokens
//   _any_block  blocks of any size, each token looked up
// The body and its tiles: paged_decode_mma.cuh.
#include "paged_decode_mma.cuh"

// LIMITS head_dim 192; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..50176
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d192, 192, 1, true, 1, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d192_bf16, 192, 1, true, 1, bf16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d192_any_block, 192, 1, false, 1, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d192_any_block_bf16, 192, 1, false, 1, bf16)
