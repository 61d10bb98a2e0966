// paged_decode_attention_int8_tma_d96.cu - paged_decode_attention_int8 for Hopper and later, head_dim 96, 8 query rows
// of a KV head at a time, blocks of 16 * n tokens. The body and its tiles: paged_decode_tma.cuh.
#if __CUDA_ARCH__ >= 900
#include "paged_decode_tma.cuh"

// LIMITS head_dim 96; q_len 1..8; block_dim 512; dynamic_shared_bytes 0..229376
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d96, 96, 1, 12, f16)
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d96_bf16, 96, 1, 12, bf16)
#endif
