// tile_cache.cuh - from the paged cache in global memory to the fragments of the lanes that multiply them.
//
// TileRows says where the 16 tokens of a tile lie, TileCache loads them: K one tile ahead, V one, the block's table
// entry two, as paged_decode_mma.cuh asks for them. Nothing passes through shared memory.
#pragma once
#include "decode_tile.cuh"
#include "half_tile.cuh"
#include "paged_kv.cuh"

// Streamed once: not worth a line of L1.
template <i32 WIDTH>
DEVICE void load_words(u32* words, const void* from) {
    if constexpr (WIDTH == 4)
#ifdef CODES_EVICTED_FIRST
        asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "l"(from), "l"(evict_first()));
#else
        asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "l"(from));
#endif
    else if constexpr (WIDTH == 2)
        asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];"
                     : "=r"(words[0]), "=r"(words[1]) : "l"(from));
    else
        asm volatile("ld.global.nc.L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(words[0]) : "l"(from));
}

// CODES_EVICTED_FIRST: where registers are left for the policy, 16-byte loads keep K and V from pushing out of the L2
// what is read again (bulk_copy.cuh).

// A lane's WORDS words of one row, in loads as wide as column_of in decode_tile.cuh lays them out.
template <i32 WORDS, typename Column>
DEVICE void load_row(u32* words, const i8* row, Column column) {
#pragma unroll
    for (i32 w = 0; w < (WORDS & ~3); w += 4) load_words<4>(words + w, row + column(w));
    if constexpr (WORDS & 2) load_words<2>(words + (WORDS & ~3), row + column(WORDS & ~3));
    if constexpr (WORDS & 1) load_words<1>(words + (WORDS & ~1), row + column(WORDS & ~1));
}

struct TokenScales {
    f32 k0, k1, v0, v1;  // of a token and the next
};

// What a warp holds of one tile, in the lanes' fragments. Of fp16 and bf16: there are no scales; k0 and k1 are 1, or NaN where the table names no block.
template <i32 HEAD_DIM, i32 ROW_TILES, typename half_t>
struct TileCache {
    using Tile = HalfTile<HEAD_DIM, ROW_TILES, half_t>;
    u32 k[2][2 * Tile::K_STEPS];
    u32 v[4][2 * Tile::V_WORDS];
    f32 one;

    template <typename Rows>
    DEVICE_MEMBER void place(Rows& rows, const f16*) {
        i32 block;
        one = rows.place(block) ? 1.0f : NAN_F32;
    }
    DEVICE_MEMBER TokenScales scales_of(i32) const { return {one, one, 1.0f, 1.0f}; }
    template <typename Rows>
    DEVICE_MEMBER void load_k(const half_t* k_pool, const Rows& rows) {
        const i32 lane = threadIdx.x & 31;
#pragma unroll
        for (i32 i = 0; i < 2; i++) {
            const half_t* row = k_pool + rows.code_of(token_of(lane >> 2) + i);
#pragma unroll
            for (i32 s = 0; s < Tile::K_STEPS; s += 2)
                load_words<4>(&k[i][2 * s], row + Tile::k_column(s, lane & 3));
        }
    }
    template <typename Rows>
    DEVICE_MEMBER void load_v(const half_t* v_pool, const Rows& rows) {
        const i32 lane = threadIdx.x & 31;
#pragma unroll
        for (i32 i = 0; i < 4; i++) {
            const half_t* row = v_pool + rows.code_of(token_of((lane & 3) * 2 + (i & 1)) + (i >> 1));
#pragma unroll
            for (i32 w = 0; w < Tile::V_WORDS; w += 2)
                load_words<4>(&v[i][2 * w], row + Tile::v_column(w, lane >> 2));
        }
    }
    // V of tokens that no row sees may be NaN, and 0 * NaN is NaN. `t` is the tile's first token.
    DEVICE_MEMBER void hide(i32 t, i32 first_visible, i32 kv_len) {
        const i32 lane = threadIdx.x & 31;
#pragma unroll
        for (i32 i = 0; i < 4; i++) {
            const i32 token = t + token_of((lane & 3) * 2 + (i & 1)) + (i >> 1);
            const bool hidden = token < first_visible || token >= kv_len;
#pragma unroll
            for (i32 w = 0; w < 2 * Tile::V_WORDS; w++) v[i][w] = hidden ? 0 : v[i][w];
        }
    }
};

// Of int8.
template <i32 HEAD_DIM, i32 ROW_TILES>
struct TileCache<HEAD_DIM, ROW_TILES, i8> {
    using Tile = WarpTile<HEAD_DIM, ROW_TILES>;
    u32 k[2][Tile::K_STEPS];
    u32 v[4][Tile::V_WORDS];
    f16 scale;  // of token lane % 16: k_scale in lanes 0..15, v_scale in 16..31; widened only when it is needed

    template <typename Rows>
    DEVICE_MEMBER void place(Rows& rows, const f16* scales) {
        scale = rows.place_with_scale(scales);
    }
    DEVICE_MEMBER TokenScales scales_of(i32 token) const {
        const f32 x = widen(scale);
        return {__shfl_sync(ALL_LANES, x, token), __shfl_sync(ALL_LANES, x, token + 1),
                __shfl_sync(ALL_LANES, x, 16 + token), __shfl_sync(ALL_LANES, x, 17 + token)};
    }
    DEVICE_MEMBER void hide(i32, i32, i32) {}  // a code is finite: weight 0 hides it
    template <typename Rows>
    DEVICE_MEMBER void load_k(const i8* k_pool, const Rows& rows) {
        const i32 lane = threadIdx.x & 31;
#pragma unroll
        for (i32 i = 0; i < 2; i++) {
            const i8* row = k_pool + rows.code_of(token_of(lane >> 2) + i);
            load_row<Tile::K_STEPS>(k[i], row, [&](i32 step) { return Tile::k_column(step, lane & 3); });
        }
    }
    template <typename Rows>
    DEVICE_MEMBER void load_v(const i8* v_pool, const Rows& rows) {
        const i32 lane = threadIdx.x & 31;
#pragma unroll
        for (i32 i = 0; i < 4; i++) {  // columns 2j, 2j + 1, 2j + 8, 2j + 9 of the fragment
            const i8* row = v_pool + rows.code_of(token_of((lane & 3) * 2 + (i & 1)) + (i >> 1));
            load_row<Tile::V_WORDS>(v[i], row, [&](i32 word) {
                const i32 column = Tile::v_column(word, lane >> 2);
                // a lane past the row's end repeats its last word, for columns that nobody reads
                return HEAD_DIM % 32 ? min(column, HEAD_DIM - 4) : column;
            });
        }
    }
};

// Where the tokens of a tile lie. A block of 16 * n tokens holds whole tiles; else each token is looked up by its lane.
template <bool WHOLE_TILES>
struct TileRows {
    PagedKv kv;
    BlockDivider blocks;
    const i32* table;  // of the sequence
    i64* token_codes;  // [16] in shared memory, where tiles are not whole
    i32 kv_head, num_blocks, first_visible, kv_len;
    i32 ahead, block_offset, looked_up = -1;  // of the tile to come (or of this lane's token): entry, offset; its t
    i64 code;                 // of the tile's first token

    // Ask for the table entry of the tile at t; the wait for it comes with place().
    DEVICE_MEMBER void look_up(i32 t, bool any) {
        i32 token = t;
        if (!WHOLE_TILES) token = min(max(t + (i32)(threadIdx.x & 15), first_visible), kv_len - 1);
        i32 block;
        blocks.divide(token, block, block_offset);
        if (any) ahead = __ldg(table + block);
    }
    // Place the tile last looked up; false where the table names no block, and block 0 stands in for it.
    DEVICE_MEMBER bool place(i32& block) {
        const bool inside = (u32)ahead < (u32)num_blocks;
        block = inside ? ahead : 0;
        const i64 here = kv.code_offset(block, block_offset, kv_head);
        if (WHOLE_TILES) {
            code = here;
        } else {
            __syncwarp();
            if ((threadIdx.x & 31) < 16) token_codes[threadIdx.x & 15] = here;
            __syncwarp();
        }
        return inside;
    }
    // Likewise, with the scale of this lane's token: NaN where there is no block.
    DEVICE_MEMBER f16 place_with_scale(const f16* scales) {
        i32 block;
        const bool inside = place(block);
        const i32 offset = block_offset + (WHOLE_TILES ? threadIdx.x & 15 : 0);
        f16 scale = {0x7e00};
        if (inside) scale = scales[kv.scale_offset(block, offset, kv_head)];
        return scale;
    }
    DEVICE_MEMBER i64 code_of(i32 token) const {
        return WHOLE_TILES ? code + token * (kv.num_kv_heads * kv.head_dim) : token_codes[token];
    }
};

