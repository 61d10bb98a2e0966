// paged_decode_attention_int8_cluster_d64.cu - paged_decode_attention_int8 for few sequences on Hopper and later,
// head_dim 64, blocks of 16 * n tokens. The body and its tiles: paged_decode_cluster.cuh.
#if __CUDA_ARCH__ >= 900
#include "paged_decode_cluster.cuh"

// LIMITS head_dim 64; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..20480
PAGED_DECODE_ATTENTION_INT8_CLUSTER(paged_decode_attention_int8_cluster_d64, 64, 2, f16)
PAGED_DECODE_ATTENTION_INT8_CLUSTER(paged_decode_attention_int8_cluster_d64_bf16, 64, 2, bf16)
#endif
