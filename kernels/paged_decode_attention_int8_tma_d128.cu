// paged_decode_attention_int8_tma_d128.cu - paged_decode_attention_int8 for Hopper and later, head_dim 128.
//
//   plain    8 query rows of a KV head at a time
//   _rows16  16 query rows: groups of 9 and more read K and V half as often
// Blocks of 16 * n tokens. The body and its tiles: paged_decode_tma.cuh.
#if __CUDA_ARCH__ >= 900
#include "paged_decode_tma.cuh"

// LIMITS head_dim 128; q_len 1..8; block_dim 512; dynamic_shared_bytes 0..229376
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d128, 128, 1, 12, f16)
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d128_bf16, 128, 1, 12, bf16)
// LIMITS head_dim 128; q_len 1..8; block_dim 384; dynamic_shared_bytes 0..229376
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d128_rows16, 128, 2, 8, f16)
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d128_rows16_bf16, 128, 2, 8, bf16)
#endif
