// paged_decode_attention_int8_d64.cu - paged_decode_attention_int8 on tensor cores for head_dim 64.
//
//   plain       8 query rows of a KV head at a time, blocks of 16 * n tokens
//   _rows16     16 query rows: groups of 9 and more read K and V half as often
//   _any_block  blocks of any size, each token looked up
// The body and its tiles: paged_decode_mma.cuh.
#include "paged_decode_mma.cuh"

// LIMITS head_dim 64; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..34816
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d64, 64, 1, true, 2, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d64_bf16, 64, 1, true, 2, bf16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d64_rows16, 64, 2, true, 1, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d64_rows16_bf16, 64, 2, true, 1, bf16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d64_any_block, 64, 1, false, 1, f16)
PAGED_DECODE_ATTENTION_INT8_MMA(paged_decode_attention_int8_d64_any_block_bf16, 64, 1, false, 1, bf16)
