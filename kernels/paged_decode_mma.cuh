// paged_decode_mma.cuh - paged_decode_attention_int8, and paged_decode_attention, on tensor cores: the body of the
// entries named for a head_dim.
//
// One .cu a head_dim, since a driver compiles a whole module when it loads it.
//
// MATH    paged_decode_params.cuh. The products and their operand layout: decode_tile.cuh.
//
// TILES   grid   (workers, head groups, row tiles): how workers share the batch is decode_work.cuh
//         CTA    8 warps = heads * stripes; heads = 8 at most, the power of two that num_kv_heads / gridDim.y needs.
//                All KV heads of a token in one CTA read whole rows of the cache; few heads and many stripes
//                leave more CTAs for few sequences.
//         warp   one KV head, one stripe: tile `step * stripes + stripe` of 16 tokens; 8 or 16 query rows at once,
//                4 with k_channel_factors (decode_tile.cuh)
//
// MEMORY  paged_kv.cuh. K and V go from global memory to the registers of the lane that multiplies them, 16 bytes a
//         lane where the row is long enough (column_of in decode_tile.cuh: head_dim 128 and above, and K from 64 on),
//         K one tile ahead and V one tile ahead, the block's table entry two.
//         shared: exchange between the stripes at the end of a piece; independent of kv_len
//
// COST    reads 2 * kv_len * num_kv_heads * (head_dim + 2) bytes a sequence once for each row tile
// NEEDS   q, out 8-byte aligned, their strides multiples of 4; pools 16-byte aligned, kv_block_stride a multiple of 16
// TWIN    pyferrum_kv/reference/attention.py::paged_decode_attention_int8
#pragma once
#include "decode_finish.cuh"
#include "paged_decode_params.cuh"
#include "paged_kv.cuh"
#include "tile_cache.cuh"

#define WARPS 8

template <i32 HEAD_DIM, i32 ROW_TILES, bool WHOLE_TILES, typename element_t, typename Tile, typename LoadQ>
DEVICE void fold_piece(Tile& tile, const Piece& piece, const Team& team, TileRows<WHOLE_TILES>& rows,
                       const element_t* k_pool, const element_t* v_pool, const f16* k_scales, const f16* v_scales,
                       const RowLimits& limits, LoadQ load_q) {
    const i32 lane = threadIdx.x & 31;
    const bool reshaped = limits.slopes || limits.softcap_log2 > 0.0f || limits.paired;
    const i32 clear_begin = limits.window_left < 0 ? 0 : piece.kv_len - 1 - limits.window_left;
    const i32 clear_end = piece.kv_len - limits.q_len + 1;
    const i32 stride = team.stripes * TILE_TOKENS;
    i32 t = piece.step_begin * stride + team.stripe * TILE_TOKENS;
    const i32 end = min(piece.step_end * stride, piece.kv_len);

    TileCache<HEAD_DIM, ROW_TILES, element_t> cache;
    const f16* scales = lane < 16 ? k_scales : v_scales;
    const i32 token = token_of(lane >> 2);
    if (t < end) {
        rows.look_up(t, t != rows.looked_up);
        cache.place(rows, scales);
        cache.load_k(k_pool, rows);
        cache.load_v(v_pool, rows);
        rows.look_up(t + stride, t + stride < end);
    }
    load_q();  // beside the first tile, not before it
    for (; t < end; t += stride) {
        const bool more = t + stride < end;
        const bool plain = !reshaped && t >= clear_begin && t + TILE_TOKENS <= clear_end;
        f32 s[ROW_TILES][4];
        u32 p[ROW_TILES][2];
        tile.scores(cache.k, s);
        const TokenScales scale = cache.scales_of(token);
        if (more) {
            cache.place(rows, scales);
            cache.load_k(k_pool, rows);
            rows.look_up(t + 2 * stride, t + 2 * stride < end);
        }
        tile.weigh(s, scale.k0, scale.k1, scale.v0, scale.v1, plain, t, limits, p);
        if (__builtin_expect(!plain, 0)) cache.hide(t, rows.first_visible, rows.kv_len);
        tile.accumulate(cache.v, p);
        if (more) cache.load_v(v_pool, rows);
    }
}

template <i32 HEAD_DIM, i32 ROW_TILES, bool WHOLE_TILES, typename half_t, typename element_t>
DEVICE void paged_decode_attention(PAGED_DECODE_BODY_PARAMS(half_t, element_t)) {
    extern __shared__ __align__(16) f32 exchange[];  // WARPS * min(num_rows, 8 * ROW_TILES) * (HEAD_DIM + 4)
    __shared__ Notes notes[WARPS];
    __shared__ i64 token_codes[WARPS][TILE_TOKENS];
    const i32 warp = threadIdx.x >> 5;
    let_next_launch_begin();
    wait_for_earlier_launches();

    // which KV head, which rows
    const i32 heads_wanted = (num_kv_heads + (i32)gridDim.y - 1) / (i32)gridDim.y;
    const i32 heads_log2 = heads_wanted <= 1 ? 0 : 32 - __clz(heads_wanted - 1);
    const i32 heads = 1 << heads_log2;
    Team team = {warp & (heads - 1), warp >> heads_log2, WARPS >> heads_log2};
    const i32 kv_head = (i32)blockIdx.y * heads + team.index;
    if (kv_head >= num_kv_heads) return;
    const i32 q_per_kv = num_q_heads / num_kv_heads;
    const i32 num_rows = q_per_kv * q_len;
    const i32 tile_rows = k_channel_factors ? 4 : 8 * ROW_TILES;
    const i32 first_row = (i32)blockIdx.z * tile_rows;
    const i32 q_head = kv_head * q_per_kv;

    const i32 step_log2 = 7 - heads_log2;
    const WorkList work = {kv_lens, batch_size, max_kv_len, q_len, window_left, num_splits, step_log2,
                           split_len > 0 ? 31 - __clz(split_len >> step_log2) : 0, split_len > 0};
    work.begin(notes[warp], work.first_kv_len());
    PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, HEAD_DIM};
    BlockDivider blocks;
    blocks.init(block_size);
    const i64 slot_floats = (i64)num_kv_heads * num_rows * (HEAD_DIM + 4);
    f32* states = workspace + ((i64)kv_head * num_rows + first_row) * (HEAD_DIM + 4);
    f32* mine = exchange + team.index * team.stripes * min(num_rows, 8 * ROW_TILES) * (HEAD_DIM + 4);

    typename TileCache<HEAD_DIM, ROW_TILES, element_t>::Tile tile;
    Piece piece;
    while (work.next(notes[warp], piece)) {
        const half_t* q_rows = q + (i64)piece.sequence * q_len * q_token_stride + q_head * q_head_stride;
        // more tokens than were promised: the table may not hold them, and NaN says so
        const f32 scale_log2 = piece.kv_len > max_kv_len ? NAN_F32 : softmax_scale * LOG2_E;
        piece.kv_len = min(piece.kv_len, max_kv_len);
        const RowLimits limits = {piece.kv_len, q_len, window_left, q_per_kv, first_row, logit_softcap * LOG2_E,
                                  alibi_slopes ? alibi_slopes + q_head : nullptr, k_channel_factors != nullptr};
        const i32* table = block_table + piece.sequence * block_table_stride;
        const i32 first_visible = window_left < 0 ? 0 : max(piece.kv_len - q_len - window_left, 0);
        TileRows<WHOLE_TILES> rows = {kv, blocks, table, token_codes[warp], kv_head, num_blocks, first_visible,
                                      piece.kv_len};
        fold_piece<HEAD_DIM, ROW_TILES, WHOLE_TILES>(tile, piece, team, rows, k_pool, v_pool, k_scales, v_scales,
                                                     limits, [&]() {
            tile.template load_q<half_t>(q_rows, q_token_stride, q_head_stride,
                                         k_channel_factors ? k_channel_factors + (i64)kv_head * HEAD_DIM : nullptr,
                                         first_row, num_rows, q_per_kv, scale_log2);
        });
        piece = notes[warp].piece;
        const i64 token = (i64)piece.sequence * q_len;
        RowSink<half_t> sink = {out + token * out_token_stride + q_head * out_head_stride,
                                lse ? lse + token * num_q_heads + q_head : nullptr,
                                sinks ? sinks + q_head : nullptr,
                                out_token_stride, out_head_stride, num_q_heads, q_per_kv};
        u32* counter = counters + ((i64)piece.sequence * num_kv_heads + kv_head) * gridDim.z + blockIdx.z;
        if constexpr (!IS_I8<element_t>) tile.order_columns();
        finish_piece(tile, team, piece, mine, states, slot_floats, counter, first_row,
                     min(num_rows, first_row + tile_rows), sink);
    }
}

#define PAGED_DECODE_ATTENTION_INT8_MMA(NAME, HEAD_DIM, ROW_TILES, WHOLE_TILES, MIN_CTAS, half_t)  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, MIN_CTAS) NAME(                        \
        PAGED_DECODE_PARAMS(half_t)) {                                                              \
        paged_decode_attention<HEAD_DIM, ROW_TILES, WHOLE_TILES, half_t, i8>(PAGED_DECODE_ARGS);    \
    }

#define PAGED_DECODE_ATTENTION_MMA(NAME, HEAD_DIM, MIN_CTAS, half_t)                                 \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, MIN_CTAS) NAME(                        \
        PAGED_DECODE_HALF_PARAMS(half_t)) {                                                         \
        PAGED_DECODE_NO_SCALES;                                                                     \
        paged_decode_attention<HEAD_DIM, 1, true, half_t, half_t>(PAGED_DECODE_ARGS);               \
    }
