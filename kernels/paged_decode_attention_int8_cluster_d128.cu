// paged_decode_attention_int8_cluster_d128.cu - paged_decode_attention_int8 for few sequences on Hopper and later,
// head_dim 128, blocks of 16 * n tokens. The body and its tiles: paged_decode_cluster.cuh.
#if __CUDA_ARCH__ >= 900
#include "paged_decode_cluster.cuh"

// LIMITS head_dim 128; q_len 1..8; block_dim 256; dynamic_shared_bytes 0..39936
PAGED_DECODE_ATTENTION_INT8_CLUSTER(paged_decode_attention_int8_cluster_d128, 128, 2, f16)
PAGED_DECODE_ATTENTION_INT8_CLUSTER(paged_decode_attention_int8_cluster_d128_bf16, 128, 2, bf16)
#endif
