// decode_finish.cuh - from the states of a piece's warps to the output, or to the workspace and the last CTA's merge.
//
// A team is the warps of a CTA that hold the same KV head; each has every `stripes`-th tile of the piece. Their states
// meet in shared memory, and then either the sequence is whole and is written out, or the team's state goes to its slot
// and the last team to arrive folds the slots in their order: the same bits whoever is last.
//
// exchange    f32 [team, stripe, rows kept] x state, in shared memory
// workspace   f32 [slot, num_kv_heads, rows of a KV head] x state;   state = o[head_dim], m, l, 2 unused
// counters    u32 [batch_size, num_kv_heads, row tiles]              the last arrival wraps back to 0
//
// This code runs once a piece, mostly from a cold instruction cache: it is kept short before it is kept unrolled.
#pragma once
#include "decode_tile.cuh"
#include "decode_work.cuh"

#define MERGE_LOADS 8  // states that a lane of the merge has on their way at a time

// Where the rows of one KV head of one sequence go.
template <typename half_t>
struct RowSink {
    half_t* out;  // of query token 0 and the KV head's first query head
    f32* lse;     // likewise, or null
    const f32* sinks;
    i64 token_stride, head_stride;
    i32 num_q_heads, q_per_kv;

    // Fold in the sink, divide, write 4 columns; the lane with the first column writes lse.
    DEVICE_MEMBER void write(i32 row, i32 column, SoftmaxState state, float4 o) const {
        const i32 token = row < q_per_kv ? 0 : row / q_per_kv, head = row - token * q_per_kv;
        f32 scale = 1.0f;
        if (sinks) {
            const f32 sink = sinks[head] * LOG2_E;
            scale = state.raise(sink);
            state.l += state.weight(sink);
        }
        scale *= state.inverse_sum();
        uint2 pairs;
        pairs.x = narrow2<half_t>(o.x * scale, o.y * scale);
        pairs.y = narrow2<half_t>(o.z * scale, o.w * scale);
        *(uint2*)(out + token * token_stride + head * head_stride + column) = pairs;
        if (lse && column == 0) lse[(i64)token * num_q_heads + head] = state.lse();
    }
};

struct Team {
    i32 index;    // of the CTA's teams
    i32 stripe;   // of this warp
    i32 stripes;  // warps

    DEVICE_MEMBER void sync() const {
        asm volatile("bar.sync %0, %1;" ::"r"(index + 1), "r"(stripes * 32) : "memory");
    }
};

// Count an arrival, wrapping after `last`; what the CTA wrote before is seen by who acquires, and the other way round.
DEVICE u32 arrive(u32* counter, u32 last) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(last) : "memory");
    return before;
}

DEVICE float4 load_l2(const float4* p) {  // L1 may hold a sector from before a neighbour's state was written
    float4 x;
    asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(p) : "memory");
    return x;
}

// One row, one warp: fold the states of a sequence's pieces, 4 columns a lane. Few states: the warp holds 128 columns and
// takes the states one after another. Many: it holds 32, and each of its four groups of 8 lanes takes every fourth state.
template <i32 HEAD_DIM, typename half_t>
DEVICE void merge_columns(const f32* states, i64 slot_floats, const Piece& piece, i32 groups_log2, i32 row,
                          i32 first_column, const RowSink<half_t>& sink) {
    const i32 lane = threadIdx.x & 31, lanes_log2 = 5 - groups_log2;
    const i32 group = lane >> lanes_log2;
    const i32 column = first_column + (lane & ((1 << lanes_log2) - 1)) * 4;
    const bool inside = column < HEAD_DIM;
    SoftmaxState total;
    total.init();
    float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const i32 at_a_time = MERGE_LOADS << groups_log2;
#pragma unroll 1
    for (i32 from = 0; from < piece.num_states; from += at_a_time) {
        const i32 count = min(piece.num_states - from, at_a_time);
        float4 part[MERGE_LOADS];
        SoftmaxState mine;
        mine.init();
        if (lane < count) {
            const float4 m_l = load_l2((const float4*)(states + piece.slot_of(from + lane) * slot_floats + HEAD_DIM));
            mine.m = m_l.x;
            mine.l = m_l.y;
        }
#pragma unroll
        for (i32 k = 0; k < MERGE_LOADS; k++) {
            part[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            const i32 i = (k << groups_log2) + group;
            if (i < count && inside)
                part[k] = load_l2((const float4*)(states + piece.slot_of(from + i) * slot_floats + column));
        }
        f32 highest = mine.m;
#pragma unroll
        for (i32 apart = 1; apart < 32; apart <<= 1)
            highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, apart));
        const f32 shrink = total.raise(highest);
        o.x *= shrink;
        o.y *= shrink;
        o.z *= shrink;
        o.w *= shrink;
        const f32 weight = total.weight(mine.m);
        total.l += mine.l * weight;  // of this lane's states; added up at the end
#pragma unroll
        for (i32 k = 0; k < MERGE_LOADS; k++) {
            const f32 w = __shfl_sync(ALL_LANES, weight, (k << groups_log2) + group);
            o.x += part[k].x * w;
            o.y += part[k].y * w;
            o.z += part[k].z * w;
            o.w += part[k].w * w;
        }
    }
#pragma unroll
    for (i32 apart = 16; apart >= 1; apart >>= 1) {
        total.l += __shfl_xor_sync(ALL_LANES, total.l, apart);
        if (apart < 8 || !groups_log2) continue;
        o.x += __shfl_xor_sync(ALL_LANES, o.x, apart);
        o.y += __shfl_xor_sync(ALL_LANES, o.y, apart);
        o.z += __shfl_xor_sync(ALL_LANES, o.z, apart);
        o.w += __shfl_xor_sync(ALL_LANES, o.w, apart);
    }
    if (group == 0 && inside) sink.write(row, column, total, o);
}

// One warp's state of its rows, to shared memory.
template <i32 HEAD_DIM, i32 ROW_TILES>
DEVICE void leave_state(WarpTile<HEAD_DIM, ROW_TILES>& tile, f32* to, i32 rows) {
    constexpr i32 STATE = HEAD_DIM + 4;
    using Tile = WarpTile<HEAD_DIM, ROW_TILES>;
    const i32 g = (threadIdx.x & 31) >> 2, j = threadIdx.x & 3;
#pragma unroll
    for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
        for (i32 e = 0; e < 2; e++) {
            const i32 row = 8 * n + 2 * j + e;
            if (row >= rows) continue;
            f32* state = to + row * STATE;
#pragma unroll
            for (i32 w = 0; w < Tile::V_WORDS; w++) {
                const f32(&low)[4] = tile.o[n][2 * w], (&high)[4] = tile.o[n][2 * w + 1];
                const i32 column = Tile::v_column(w, g);
                if (HEAD_DIM % 32 == 0 || column < HEAD_DIM)
                    *(float4*)(state + column) = make_float4(low[e], low[2 + e], high[e], high[2 + e]);
            }
            if (g == 0) *(float2*)(state + HEAD_DIM) = make_float2(tile.state[n][e].m, tile.state[n][e].l);
        }
    }
}

// 4 columns of one row over `count` states, `apart` floats from one to the next: m and l of the row, and o.
template <i32 HEAD_DIM>
DEVICE SoftmaxState fold_states(const f32* row_state, i32 count, i32 apart, i32 column, float4& o) {
    SoftmaxState total;
    total.init();
    o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 2
    for (i32 s = 0; s < count; s++) total.m = fmaxf(total.m, row_state[s * apart + HEAD_DIM]);
#pragma unroll 2
    for (i32 s = 0; s < count; s++) {
        const float2 m_l = *(const float2*)(row_state + s * apart + HEAD_DIM);
        const float4 part = *(const float4*)(row_state + s * apart + column);
        const f32 w = total.weight(m_l.x);
        total.l += m_l.y * w;
        o.x += part.x * w;
        o.y += part.y * w;
        o.z += part.z * w;
        o.w += part.w * w;
    }
    return total;
}

// All warps of the team call, also those that folded nothing. `exchange`: the team's shared memory, stripes *
// min(num_rows, 8 * ROW_TILES) * (HEAD_DIM + 4) floats.
template <i32 HEAD_DIM, i32 ROW_TILES, typename half_t>
DEVICE void finish_piece(WarpTile<HEAD_DIM, ROW_TILES>& tile, const Team& team, const Piece& piece, f32* exchange,
                         f32* states, i64 slot_floats, u32* counter, i32 first_row, i32 num_rows,
                         const RowSink<half_t>& sink) {
    constexpr i32 ROWS = 8 * ROW_TILES, STATE = HEAD_DIM + 4, QUADS = HEAD_DIM / 4;
    const i32 lane = threadIdx.x & 31;
    const i32 rows = min(num_rows - first_row, ROWS);
    const i32 stripe_floats = min(num_rows, ROWS) * STATE;
    tile.sum_lanes();
    team.sync();  // the exchange is free: what the last piece left there has been read
    leave_state(tile, exchange + team.stripe * stripe_floats, rows);
    team.sync();
#pragma unroll 1
    for (i32 i = team.stripe * 32 + lane; i < rows * QUADS; i += team.stripes * 32) {
        const i32 row = i / QUADS, column = i % QUADS * 4;
        float4 o;
        const SoftmaxState total =
            fold_states<HEAD_DIM>(exchange + row * STATE, team.stripes, stripe_floats, column, o);
        if (piece.num_states == 1) {
            sink.write(first_row + row, column, total, o);
        } else {
            f32* to = states + piece.slot * slot_floats + row * STATE;
            *(float4*)(to + column) = o;
            if (column == 0) *(float4*)(to + HEAD_DIM) = make_float4(total.m, total.l, 0.0f, 0.0f);
        }
    }
    if (piece.num_states == 1) return;

    // the last team to arrive sees every state; the barrier orders the team's writes before the one arrival
    u32* arrived = (u32*)exchange;
    team.sync();
    if (team.stripe == 0 && lane == 0) *arrived = arrive(counter, (u32)piece.num_states - 1);
    team.sync();
    if (*arrived != (u32)piece.num_states - 1) return;
    const i32 groups_log2 = piece.num_states > MERGE_LOADS ? 2 : 0;
    const i32 columns = 128 >> groups_log2;
    const i32 parts = (HEAD_DIM + columns - 1) >> (7 - groups_log2);
#pragma unroll 1
    for (i32 i = team.stripe; i < rows * parts; i += team.stripes) {
        const i32 row = i / parts;
        merge_columns<HEAD_DIM, half_t>(states + row * STATE, slot_floats, piece, groups_log2, first_row + row,
                                        (i - row * parts) * columns, sink);
    }
}
