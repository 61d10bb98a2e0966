// paged_decode_cluster.cuh - paged_decode_attention_int8 for few sequences, sm_90: the body of the _cluster entries.
//
// MATH    paged_decode_params.cuh. The products and their operand layout: decode_tile.cuh.
//
// TILES   grid     (CTAs of a cluster, num_kv_heads, batch_size * row tiles)
//         cluster  one KV head of one sequence: each CTA folds as many steps of 128 tokens as the others
//         CTA      8 warps on one KV head, each with every eighth tile of 16 tokens; 8 query rows
//
// MEMORY  paged_kv.cuh. K and V go to registers as in paged_decode_mma.cuh; states meet in shared memory, first the
//         warps' and then the cluster's: decode_cluster.cuh. No workspace, no counters.
//         shared: the warps' states and what the cluster brings, independent of kv_len
//
// COST    reads 2 * kv_len * num_kv_heads * (head_dim + 2) bytes a sequence once for each row tile
// NEEDS   as paged_decode_mma.cuh; a cluster of the whole of grid x
// TWIN    pyferrum_kv/reference/attention.py::paged_decode_attention_int8
#pragma once
#define CODES_EVICTED_FIRST
#include "bulk_copy.cuh"
#include "decode_cluster.cuh"
#include "paged_decode_mma.cuh"

template <i32 HEAD_DIM, typename half_t>
DEVICE void paged_decode_attention_cluster(PAGED_DECODE_PARAMS(half_t)) {
    extern __shared__ __align__(16) f32 exchange[];
    __shared__ i64 token_codes[1];  // tiles are whole: not used
    const i32 warp = threadIdx.x >> 5;
    let_next_launch_begin();
    cluster_arrive();

    // which rows of which KV head of which sequence
    const i32 kv_head = (i32)blockIdx.y;
    const i32 q_per_kv = num_q_heads / num_kv_heads;
    const i32 num_rows = q_per_kv * q_len;
    const i32 tile_rows = k_channel_factors ? 4 : 8;
    const i32 row_tiles = (num_rows + tile_rows - 1) / tile_rows;
    const i32 sequence = row_tiles == 1 ? (i32)blockIdx.z : (i32)blockIdx.z / row_tiles;
    const i32 first_row = ((i32)blockIdx.z - sequence * row_tiles) * tile_rows;
    const i32 q_head = kv_head * q_per_kv;
    constexpr i32 STEP_LOG2 = 7;
    const u32 rank = cluster_rank(), ranks = cluster_size();
    BlockDivider blocks;
    blocks.init(block_size);
    const i32* table = block_table + sequence * block_table_stride;
    const PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, HEAD_DIM};
    TileRows<true> rows = {kv, blocks, table, token_codes, kv_head, num_blocks, 0, 0};
    // where the table will be read if the length is all that it may be: asked for beside the length, not after it
    const u32 most_steps = (u32)(max_kv_len + (1 << STEP_LOG2) - 1) >> STEP_LOG2;
    i32 guess = ((i32)(most_steps * rank / ranks) << STEP_LOG2) + warp * TILE_TOKENS;
    if (guess >= max_kv_len) guess = -1;
    wait_for_earlier_launches();
    const i32 kv_len = kv_lens ? max(__ldg(kv_lens + sequence), 0) : max_kv_len;
    rows.look_up(guess, guess >= 0);
    rows.looked_up = guess;

    // this CTA's share of the visible steps
    const Team team = {0, warp, WARPS};
    const i32 visible = min(kv_len, max_kv_len);
    const i32 first_visible = window_left < 0 ? 0 : max(visible - q_len - window_left, 0);
    const i32 first_step = first_visible >> STEP_LOG2;
    const i32 steps = ((visible + (1 << STEP_LOG2) - 1) >> STEP_LOG2) - first_step;
    Piece piece;
    piece.sequence = sequence;
    piece.kv_len = visible;
    piece.step_begin = first_step + (i32)((u32)steps * rank / ranks);
    piece.step_end = first_step + (i32)((u32)steps * (rank + 1) / ranks);

    // more tokens than were promised: the table may not hold them, and NaN says so
    const f32 scale_log2 = kv_len > max_kv_len ? NAN_F32 : softmax_scale * LOG2_E;
    const RowLimits limits = {visible, q_len, window_left, q_per_kv, first_row, logit_softcap * LOG2_E,
                              alibi_slopes ? alibi_slopes + q_head : nullptr, k_channel_factors != nullptr};
    rows.first_visible = first_visible;
    rows.kv_len = visible;
    const i64 token = (i64)sequence * q_len;
    const half_t* q_rows = q + token * q_token_stride + q_head * q_head_stride;
    WarpTile<HEAD_DIM, 1> tile;
    fold_piece<HEAD_DIM, 1, true>(tile, piece, team, rows, k_pool, v_pool, k_scales, v_scales, limits, [&]() {
        tile.template load_q<half_t>(q_rows, q_token_stride, q_head_stride,
                                     k_channel_factors ? k_channel_factors + (i64)kv_head * HEAD_DIM : nullptr,
                                     first_row, num_rows, q_per_kv, scale_log2);
    });
    const RowSink<half_t> sink = {out + token * out_token_stride + q_head * out_head_stride,
                                  lse ? lse + token * num_q_heads + q_head : nullptr,
                                  sinks ? sinks + q_head : nullptr,
                                  out_token_stride, out_head_stride, num_q_heads, q_per_kv};
    finish_in_cluster(tile, team, exchange, first_row, min(num_rows, first_row + tile_rows), sink);
}

#define PAGED_DECODE_ATTENTION_INT8_CLUSTER(NAME, HEAD_DIM, MIN_CTAS, half_t)                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, MIN_CTAS) NAME(                        \
        PAGED_DECODE_PARAMS(half_t)) {                                                              \
        paged_decode_attention_cluster<HEAD_DIM, half_t>(PAGED_DECODE_ARGS);                        \
    }
