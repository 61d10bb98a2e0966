// paged_decode_attention_d64.cu - paged_decode_attention on tensor cores for head_dim 64.
//
// 8 query rows of a KV head at a time, blocks of 16 * n tokens. The body and its tiles: paged_decode_mma.cuh.
#include "paged_decode_mma.cuh"

// LIMITS head_dim 64; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..17408
PAGED_DECODE_ATTENTION_MMA(paged_decode_attention_d64, 64, 2, f16)
PAGED_DECODE_ATTENTION_MMA(paged_decode_attention_d64_bf16, 64, 2, bf16)
