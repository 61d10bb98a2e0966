// decode_ring.cuh - slabs of K and V on their way through shared memory: producers fill slots, consumer warps free them.
//
// A slab is 16 tokens of the CTA's KV heads: codes of K, codes of V, and the scales of all KV heads of those tokens.
// Slabs pass in the order of the worker's list, across the ends of sequences, so while a sequence is finished the next
// ones are already arriving. Stripe s of a piece folds its slabs s, s + stripes, ...
//
// Each stripe has slots of its own, `depth` of them, and uses them in turn. Copies end in any order, by microseconds
// when memory is busy, and a barrier tells only the parity of its phase: a warp may wait for a slot's use k only when it
// has seen use k - 1 itself.
//
//   codes    [depth][stripes][K, V][heads][head_dim / CHUNK][16 tokens][CHUNK bytes], swizzled as the tensor map says
//   scales   [depth][stripes][K, V][16 tokens][num_kv_heads] fp16, as they lie in the pool
//   full     one mbarrier a slot: four producers arrive, and the bytes that they announced
//   empty    one mbarrier a slot: all lanes of a stripe's warps arrive, each for what it has read itself
//   inside   [slots] whether the table named a block of the pool; if not the codes are zeros and the scales are NaN
#pragma once
#include "bulk_copy.cuh"
#include "decode_tile.cuh"

#define MAX_SLOTS 64

template <i32 HEAD_DIM>
struct SlabLayout {
    static constexpr bool SWIZZLED = HEAD_DIM % 64 == 0;  // a row of another length spreads over the banks by itself
    static constexpr i32 CHUNK = HEAD_DIM % 128 == 0 ? 128 : SWIZZLED ? 64 : HEAD_DIM;
    static constexpr i32 HEAD_BYTES = TILE_TOKENS * HEAD_DIM;

    // Where column `column`, a multiple of the load's width, of token `token` lies in a head's tile.
    static DEVICE_MEMBER u32 offset(i32 token, i32 column) {
        const i32 in_chunk = token * CHUNK + column % CHUNK;
        const i32 swizzled = SWIZZLED ? in_chunk ^ ((in_chunk >> 3) & (CHUNK - 16)) : in_chunk;
        return (u32)(column / CHUNK * (TILE_TOKENS * CHUNK) + swizzled);
    }
};

struct RingBarriers {
    u64 full[MAX_SLOTS], empty[MAX_SLOTS];
    i32 inside[MAX_SLOTS];
};

// A stripe's place: which of its slots is next, and the parity of that slot's phase.
struct RingCursor {
    i32 turn;
    u32 parity;

    DEVICE_MEMBER void advance(i32 depth) {
        turn++;
        if (turn == depth) {
            turn = 0;
            parity ^= 1;
        }
    }
};

struct Ring {
    u32 codes, scales, barriers;  // shared addresses
    i32 depth, stripes, num_kv_heads;
    i32 half_codes, half_scales;  // bytes of K, or of V, in a slot

    DEVICE_MEMBER i32 slot(i32 turn, i32 stripe) const { return turn * stripes + stripe; }
    DEVICE_MEMBER u32 full(i32 slot) const { return barriers + 8 * slot; }
    DEVICE_MEMBER u32 empty(i32 slot) const { return barriers + 8 * (MAX_SLOTS + slot); }
    DEVICE_MEMBER u32 inside(i32 slot) const { return barriers + 16 * MAX_SLOTS + 4 * slot; }
    DEVICE_MEMBER u32 codes_of(i32 slot, i32 v) const { return codes + (2 * slot + v) * half_codes; }
    DEVICE_MEMBER u32 scales_of(i32 slot, i32 v) const { return scales + (2 * slot + v) * half_scales; }
};

template <i32 WIDTH>
DEVICE void load_shared(u32* words, u32 from) {
    if constexpr (WIDTH == 4)
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(from) : "memory");
    else if constexpr (WIDTH == 2)
        asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "r"(from) : "memory");
    else
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(words[0]) : "r"(from) : "memory");
}

DEVICE void store_shared(u32 to, u32 word) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory"); }
DEVICE u16 load_shared_u16(u32 from) {
    u16 bits;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(from) : "memory");
    return bits;
}
