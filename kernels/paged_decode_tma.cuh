// paged_decode_tma.cuh - paged_decode_attention_int8 fed by bulk tensor copies: the body of the _tma entries, sm_90.
//
// MATH    paged_decode_params.cuh. The products and their operand layout: decode_tile.cuh.
//
// TILES   grid   (workers, head groups, row tiles): how workers share the batch is decode_work.cuh; a step is 16 tokens
//         CTA    one an SM: 2^cta_heads_log2 heads * stripes = CONSUMERS warps, and four producer warps, one each for the
//                codes and the scales of K and of V: two copies a slab are more than one warp can ask for in time
//         warp   one KV head, one stripe: slab `stripe`, `stripe + stripes`, ... of a piece; 8 or 16 query rows
//
// MEMORY  paged_kv.cuh. One box of the tensor map brings 16 tokens of all the CTA's KV heads, swizzled, so that the
//         fragments are read from shared memory without bank conflicts: decode_ring.cuh.
//         shared: as many slabs as fit beside the exchange between the stripes; independent of kv_len
//
// COST    reads 2 * kv_len * num_kv_heads * (head_dim + 2) bytes a sequence once for each row tile
// NEEDS   block_size a multiple of 16; q, out 8-byte aligned, their strides multiples of 4; pools and scales 16-byte
//         aligned, kv_block_stride a multiple of 16, scale_block_stride of 8
//         k_map, v_map: int8, 5 dimensions
//             (CHUNK, block_size, head_dim / CHUNK, num_kv_heads, num_blocks)   strides in bytes
//             (1, num_kv_heads * head_dim, CHUNK, head_dim, kv_block_stride)    box (CHUNK, 16, head_dim / CHUNK, heads, 1)
//         CHUNK 128 or 64 where that divides head_dim, swizzled by as much; else head_dim, not swizzled; zeros outside
// TWIN    pyferrum_kv/reference/attention.py::paged_decode_attention_int8
#pragma once
#include "decode_finish.cuh"
#include "decode_ring.cuh"
#include "paged_decode_params.cuh"
#include "paged_kv.cuh"

#define PRODUCERS 4  // of the codes of K and of V, and of their scales

// One producer warp, codes or scales of V or of K: every slab of the worker's list, as slots become free.
DEVICE void produce(const Ring& ring, const WorkList& work, Notes& notes, bool v, bool of_scales,
                    const TensorMap& map, const f16* scales, const PagedKv& kv, i32 block_size, i32 num_blocks,
                    const i32* block_table, i64 block_table_stride, i32 first_head) {
    const i32 lane = threadIdx.x & 31;
    BlockDivider blocks;
    blocks.init(block_size);
    const u64 policy = evict_first();
    RingCursor cursor = {0, 1};  // of stripe `lane`; a slot never used counts as freed
    Piece piece;
    while (work.next(notes, piece)) {
        const i32* table = block_table + piece.sequence * block_table_stride;
        const i32 count = piece.step_end - piece.step_begin;
        i32 entry = -1, offset = 0;  // of this lane's slab of the next 32
        i32 stripe = 0;
        auto look_up = [&](i32 n) {
            i32 block;
            blocks.divide((piece.step_begin + n + lane) * TILE_TOKENS, block, offset);
            if (n + lane < count) entry = __ldg(table + block);
        };
        look_up(0);
        for (i32 base = 0; base < count; base += 32) {
            const i32 entry_now = entry, offset_now = offset;
            look_up(base + 32);
            const i32 some = min(count - base, 32);
#pragma unroll 1
            for (i32 i = 0; i < some; i++) {
                const i32 block = __shfl_sync(ALL_LANES, entry_now, i);
                const i32 token = __shfl_sync(ALL_LANES, offset_now, i);
                const i32 slot = ring.slot(__shfl_sync(ALL_LANES, cursor.turn, stripe), stripe);
                const u32 parity = __shfl_sync(ALL_LANES, cursor.parity, stripe);
                if (lane == 0) {
                    const bool inside = (u32)block < (u32)num_blocks;
                    const u32 full = ring.full(slot);
                    barrier_wait(ring.empty(slot), parity);
                    if (of_scales) {
                        if (!v) store_shared(ring.inside(slot), (u32)inside);
                        barrier_arrive_expect(full, (u32)ring.half_scales);
                        bulk_copy(ring.scales_of(slot, v), scales + kv.scale_offset(inside ? block : 0, token, 0),
                                  (u32)ring.half_scales, full, policy);
                    } else {
                        barrier_arrive_expect(full, (u32)ring.half_codes);
                        bulk_copy_box(ring.codes_of(slot, v), map, token, first_head, block, full, policy);
                    }
                }
                if (lane == stripe) cursor.advance(ring.depth);
                stripe = stripe + 1 == ring.stripes ? 0 : stripe + 1;
            }
        }
    }
}

// A consumer warp folds its slabs of a piece.
template <i32 HEAD_DIM, i32 ROW_TILES>
DEVICE void fold_slabs(WarpTile<HEAD_DIM, ROW_TILES>& tile, const Ring& ring, RingCursor& cursor, const Piece& piece,
                       const Team& team, i32 kv_head, const RowLimits& limits) {
    using Tile = WarpTile<HEAD_DIM, ROW_TILES>;
    using Layout = SlabLayout<HEAD_DIM>;
    const i32 lane = threadIdx.x & 31, g = lane >> 2, j = lane & 3;
    const bool reshaped = limits.slopes || limits.softcap_log2 > 0.0f;
    const i32 clear_begin = limits.window_left < 0 ? 0 : piece.kv_len - 1 - limits.window_left;
    const i32 clear_end = piece.kv_len - limits.q_len + 1;
    const i32 count = piece.step_end - piece.step_begin;
    const u32 head = (u32)(team.index * Layout::HEAD_BYTES);
    const u32 scale = (u32)(((lane & 15) * ring.num_kv_heads + kv_head) * 2);
    const i32 token = token_of(g);

    for (i32 i = team.stripe; i < count; i += team.stripes) {
        const i32 slot = ring.slot(cursor.turn, team.stripe);
        const i32 t = (piece.step_begin + i) * TILE_TOKENS;
        const bool plain = !reshaped && t >= clear_begin && t + TILE_TOKENS <= clear_end;
        barrier_wait(ring.full(slot), cursor.parity);
        f32 s[ROW_TILES][4];
        u32 p[ROW_TILES][2];
        u32 inside;
        load_shared<1>(&inside, ring.inside(slot));
        f16 own = {load_shared_u16(ring.scales_of(slot, lane >> 4) + scale)};
        {
            u32 k[2][Tile::K_STEPS];
            const u32 from = ring.codes_of(slot, 0) + head;
#pragma unroll
            for (i32 r = 0; r < 2; r++) {
#pragma unroll
                for (i32 step = 0; step < Tile::K_STEPS; step += Tile::K_WIDTH)
                    load_shared<Tile::K_WIDTH>(&k[r][step], from + Layout::offset(token + r, Tile::k_column(step, j)));
            }
            tile.scores(k, s);
        }
        u32 v[4][Tile::V_WORDS];
        const u32 from = ring.codes_of(slot, 1) + head;
#pragma unroll
        for (i32 r = 0; r < 4; r++) {  // columns 2j, 2j + 1, 2j + 8, 2j + 9 of the fragment
            const i32 row = token_of(2 * j + (r & 1)) + (r >> 1);
#pragma unroll
            for (i32 w = 0; w < Tile::V_WORDS; w += Tile::V_WIDTH) {
                const i32 column = Tile::v_column(w, g);  // past the row's end: columns that nobody keeps
                load_shared<Tile::V_WIDTH>(
                    &v[r][w], from + Layout::offset(row, HEAD_DIM % 32 ? min(column, HEAD_DIM - 4) : column));
            }
        }
        barrier_arrive(ring.empty(slot));
        if (!inside) own.bits = 0x7e00;
        const f32 wide = widen(own);
        const f32 k_scale0 = __shfl_sync(ALL_LANES, wide, token), k_scale1 = __shfl_sync(ALL_LANES, wide, token + 1);
        const f32 v_scale0 = __shfl_sync(ALL_LANES, wide, 16 + token);
        const f32 v_scale1 = __shfl_sync(ALL_LANES, wide, 17 + token);
        tile.weigh(s, k_scale0, k_scale1, v_scale0, v_scale1, plain, t, limits, p);
        tile.accumulate(v, p);
        cursor.advance(ring.depth);
    }
}

#define PAGED_DECODE_TMA_PARAMS(half_t)                                                                        \
    PAGED_DECODE_PARAMS(half_t),                                                                                \
    i32 cta_heads_log2,                          /* KV heads of a CTA, and of a box of the maps */               \
    i32 ring_depth,                              /* slabs on their way to each stripe */                        \
    const __grid_constant__ TensorMap k_map,     /* [num_blocks, num_kv_heads, chunks, block_size, CHUNK] */    \
    const __grid_constant__ TensorMap v_map      /* [num_blocks, num_kv_heads, chunks, block_size, CHUNK] */

template <i32 HEAD_DIM, i32 ROW_TILES, i32 CONSUMERS, typename half_t>
DEVICE void paged_decode_attention(PAGED_DECODE_PARAMS(half_t), i32 cta_heads_log2, i32 ring_depth,
                                   const TensorMap& k_map, const TensorMap& v_map) {
    extern __shared__ __align__(1024) u8 shared[];  // 1024 to align, codes, scales, exchange
    __shared__ Notes notes[CONSUMERS + PRODUCERS];
    __shared__ RingBarriers barriers;
    const i32 warp = threadIdx.x >> 5;
    const WorkList work = {kv_lens, batch_size, max_kv_len, q_len, window_left, num_splits, 4,
                           split_len > 0 ? 31 - __clz(split_len / TILE_TOKENS) : 0, split_len > 0};

    const i32 heads = 1 << cta_heads_log2;
    const i32 first_head = (i32)blockIdx.y * heads;
    Ring ring;
    ring.depth = ring_depth;
    ring.stripes = CONSUMERS >> cta_heads_log2;
    const i32 num_slots = ring.depth * ring.stripes;
    ring.num_kv_heads = num_kv_heads;
    ring.half_codes = heads * SlabLayout<HEAD_DIM>::HEAD_BYTES;
    ring.half_scales = 2 * TILE_TOKENS * num_kv_heads;
    ring.codes = (shared_address(shared) + 1023) & ~1023u;
    ring.scales = ring.codes + (u32)(num_slots * 2 * ring.half_codes);
    ring.barriers = shared_address(&barriers);
    const u32 exchange_begin = ring.scales + (u32)(num_slots * 2 * ring.half_scales);
    let_next_launch_begin();
    if (warp >= CONSUMERS && (threadIdx.x & 31) == 0) prefetch_map(warp & 1 ? v_map : k_map);
    if (threadIdx.x < num_slots) {
        barrier_init(ring.full(threadIdx.x), PRODUCERS);
        barrier_init(ring.empty(threadIdx.x), 32 * min(heads, num_kv_heads - first_head));
        barrier_init_done();
    }
    wait_for_earlier_launches();
    const i32 first_kv_len = work.first_kv_len();
    __syncthreads();
    work.begin(notes[warp], first_kv_len);

    if (warp >= CONSUMERS) {
        const PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, HEAD_DIM};
        const bool v = warp & 1, of_scales = (warp - CONSUMERS) & 2;
        produce(ring, work, notes[warp], v, of_scales, v ? v_map : k_map, v ? v_scales : k_scales, kv, block_size,
                num_blocks, block_table, block_table_stride, first_head);
        return;
    }

    // which head of them, which rows
    const Team team = {warp & (heads - 1), warp >> cta_heads_log2, ring.stripes};
    const i32 kv_head = first_head + team.index;
    if (kv_head >= num_kv_heads) return;
    const i32 q_per_kv = num_q_heads / num_kv_heads;
    const i32 num_rows = q_per_kv * q_len;
    const i32 first_row = (i32)blockIdx.z * 8 * ROW_TILES;
    const i32 q_head = kv_head * q_per_kv;
    const i64 slot_floats = (i64)num_kv_heads * num_rows * (HEAD_DIM + 4);
    f32* states = workspace + ((i64)kv_head * num_rows + first_row) * (HEAD_DIM + 4);
    f32* exchange = (f32*)(shared + (exchange_begin - shared_address(shared)));
    exchange += team.index * team.stripes * min(num_rows, 8 * ROW_TILES) * (HEAD_DIM + 4);

    RingCursor cursor = {0, 0};
    WarpTile<HEAD_DIM, ROW_TILES> tile;
    Piece piece;
    while (work.next(notes[warp], piece)) {
        const half_t* q_rows = q + (i64)piece.sequence * q_len * q_token_stride + q_head * q_head_stride;
        // more tokens than were promised: the table may not hold them, and NaN says so
        const f32 scale_log2 = piece.kv_len > max_kv_len ? NAN_F32 : softmax_scale * LOG2_E;
        piece.kv_len = min(piece.kv_len, max_kv_len);
        const RowLimits limits = {piece.kv_len, q_len, window_left, q_per_kv, first_row, logit_softcap * LOG2_E,
                                  alibi_slopes ? alibi_slopes + q_head : nullptr, false};
        tile.template load_q<half_t>(q_rows, q_token_stride, q_head_stride, nullptr, first_row, num_rows, q_per_kv,
                                     scale_log2);
        fold_slabs<HEAD_DIM, ROW_TILES>(tile, ring, cursor, piece, team, kv_head, limits);
        piece = notes[warp].piece;
        const i64 token = (i64)piece.sequence * q_len;
        RowSink<half_t> sink = {out + token * out_token_stride + q_head * out_head_stride,
                                lse ? lse + token * num_q_heads + q_head : nullptr,
                                sinks ? sinks + q_head : nullptr,
                                out_token_stride, out_head_stride, num_q_heads, q_per_kv};
        u32* counter = counters + ((i64)piece.sequence * num_kv_heads + kv_head) * gridDim.z + blockIdx.z;
        finish_piece(tile, team, piece, exchange, states, slot_floats, counter, first_row, num_rows, sink);
    }
}

#define PAGED_DECODE_ATTENTION_INT8_TMA(NAME, HEAD_DIM, ROW_TILES, CONSUMERS, half_t)                           \
    extern "C" __global__ void __launch_bounds__((CONSUMERS + PRODUCERS) * 32, 1) NAME(                         \
        PAGED_DECODE_TMA_PARAMS(half_t)) {                                                                      \
        paged_decode_attention<HEAD_DIM, ROW_TILES, CONSUMERS, half_t>(PAGED_DECODE_ARGS, cta_heads_log2,       \
                                                                       ring_depth, k_map, v_map);               \
    }
