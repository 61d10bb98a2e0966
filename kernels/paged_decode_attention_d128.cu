// paged_decode_attention_d128.cu - paged_decode_attention on tensor cores for head_dim 128.
//
// 8 query rows of a KV head at a time, blocks of 16 * n tokens. The body and its tiles: paged_decode_mma.cuh.
#include "paged_decode_mma.cuh"

// LIMITS head_dim 128; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..33792
PAGED_DECODE_ATTENTION_MMA(paged_decode_attention_d128, 128, 1, f16)
PAGED_DECODE_ATTENTION_MMA(paged_decode_attention_d128_bf16, 128, 1, bf16)
