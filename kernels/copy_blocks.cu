// copy_blocks.cu - copy whole blocks, codes and scales of K and V together, within pools or from pools to pools.
//
// MATH    For each pair (from, to): block `to` of all four destination arrays becomes block `from` of the sources.
//         A pair with a block outside its pools, -1 among them, copies nothing, so a captured launch may be padded.
//
// TILES   grid   num_pairs * 2 * parts: K and V of a pair, each in parts of PART_BYTES
//         CTA    256 threads
//         thread UNROLL words at a time, all loaded before any is stored; a word is 16 bytes, or as many as divide both
//                addresses and the size
//
// MEMORY  pools and scales: paged_kv.cuh. The scales go with the first part. Either side may lie in page-locked host
//         memory: a block's 16 KiB take longer over PCIe than their loads take to ask for, and a launch for all pairs
//         costs less than a copy of the driver for each of the four arrays of each pair.
//
// COST    reads and writes 2 * block_size * num_kv_heads * (head_dim + 2) bytes a pair
// NEEDS   destinations are distinct, and none is the source of another pair in the same pools; num_pairs * 2 * parts
//         below 2^31; head_dim a multiple of 8; pools aligned to 8 bytes.
// TWIN    pyferrum_kv/reference/blocks.py::swap_blocks
#include "types.cuh"

#define THREADS 256
#define UNROLL 4
#define PART_BYTES 16384  // THREADS * UNROLL words of 16 bytes

template <typename word_t>
DEVICE void copy_words(const u8* from, u8* to, i64 num_bytes) {
    const word_t* src = (const word_t*)from;
    word_t* dst = (word_t*)to;
    const i64 num_words = num_bytes / (i64)sizeof(word_t);
    for (i64 first = threadIdx.x; first < num_words; first += THREADS * UNROLL) {
        word_t held[UNROLL];
#pragma unroll
        for (i32 i = 0; i < UNROLL; i++)
            if (first + i * THREADS < num_words) held[i] = src[first + i * THREADS];
#pragma unroll
        for (i32 i = 0; i < UNROLL; i++)
            if (first + i * THREADS < num_words) dst[first + i * THREADS] = held[i];
    }
}

DEVICE void copy_bytes(const void* from, void* to, i64 num_bytes) {
    const u64 odd = (u64)from | (u64)to | (u64)num_bytes;
    if ((odd & 15) == 0)
        copy_words<uint4>((const u8*)from, (u8*)to, num_bytes);
    else if ((odd & 7) == 0)
        copy_words<uint2>((const u8*)from, (u8*)to, num_bytes);
    else
        copy_words<u16>((const u8*)from, (u8*)to, num_bytes);
}

// LIMITS block_dim 256; dynamic_shared_bytes 0..0
extern "C" __global__ void __launch_bounds__(THREADS) copy_blocks(
    const i8* src_k_pool,                    // [src_num_blocks, block_size, num_kv_heads, head_dim]
    const i8* src_v_pool,                    // [src_num_blocks, block_size, num_kv_heads, head_dim]
    const f16* src_k_scales,                 // [src_num_blocks, block_size, num_kv_heads]
    const f16* src_v_scales,                 // [src_num_blocks, block_size, num_kv_heads]
    i8* dst_k_pool,                          // [dst_num_blocks, block_size, num_kv_heads, head_dim]
    i8* dst_v_pool,                          // [dst_num_blocks, block_size, num_kv_heads, head_dim]
    f16* dst_k_scales,                       // [dst_num_blocks, block_size, num_kv_heads]
    f16* dst_v_scales,                       // [dst_num_blocks, block_size, num_kv_heads]
    const i32* __restrict__ block_pairs,     // [num_pairs, 2]
    i64 kv_block_stride,                     // codes from a block to the next
    i64 scale_block_stride,                  // scales from a block to the next
    i32 src_num_blocks,
    i32 dst_num_blocks,
    i32 num_pairs,
    i32 parts
) {
    const u32 pair = blockIdx.x / (2 * (u32)parts);
    const u32 rest = blockIdx.x - pair * 2 * (u32)parts;
    const bool of_v = rest >= (u32)parts;
    const u32 part = of_v ? rest - (u32)parts : rest;
    if (pair >= (u32)num_pairs) return;
    const i32 from = block_pairs[2 * (i64)pair], to = block_pairs[2 * (i64)pair + 1];
    if (from < 0 || from >= src_num_blocks || to < 0 || to >= dst_num_blocks) return;

    const i64 first = (i64)part * PART_BYTES;
    const i64 num_bytes = min(kv_block_stride - first, (i64)PART_BYTES);
    const i8* codes = (of_v ? src_v_pool : src_k_pool) + from * kv_block_stride + first;
    copy_bytes(codes, (of_v ? dst_v_pool : dst_k_pool) + to * kv_block_stride + first, num_bytes);
    if (part == 0) {
        const f16* scales = (of_v ? src_v_scales : src_k_scales) + from * scale_block_stride;
        copy_bytes(scales, (of_v ? dst_v_scales : dst_k_scales) + to * scale_block_stride, scale_block_stride * 2);
    }
}
