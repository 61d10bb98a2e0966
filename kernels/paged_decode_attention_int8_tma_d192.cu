// paged_decode_attention_int8_tma_d192.cu - paged_decode_attention_int8 for Hopper and later, head_dim 192, 8 query rows
// of a KV head at a time, blocks of 16 * n tokens. The body and its tiles: paged_decode_tma.cuh.
#if __CUDA_ARCH__ >= 900
#include "paged_decode_tma.cuh"

// LIMITS head_dim 192; q_len 1..8; block_dim 320; dynamic_shared_bytes 0..229376
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d192, 192, 1, 8, f16)
PAGED_DECODE_ATTENTION_INT8_TMA(paged_decode_attention_int8_tma_d192_bf16, 192, 1, 8, bf16)
#endif
