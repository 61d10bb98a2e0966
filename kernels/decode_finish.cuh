// decode_finish.cuh - from the states of a piece's warps to the output, or to the workspace and the last CTA's merge.
//
// A team is the warps of a CTA that hold the same KV head; each has every `stripes`-th tile of the piece. Their states
// meet in shared memory, V_CHUNK columns at a time, and then either the sequence is whole and is written out, or the
// team's state goes to its slot and the last team to arrive folds the slots in their order: the same bits whoever is last.
//
// workspace   f32 [slot, num_kv_heads, rows of a KV head] x state;   state = o[head_dim], m, l, 2 unused
// counters    u32 [batch_size, num_kv_heads, row tiles]              atomicInc wraps the last arrival back to 0
#pragma once
#include "decode_tile.cuh"
#include "decode_work.cuh"

#define V_CHUNK 32             // columns that one word of every lane of a warp covers
#define V_CHUNK_STRIDE 36      // floats; rows 2j and columns 4g then fall on different banks
#define STATES_IN_FLIGHT 8

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
        const i32 token = row / q_per_kv, head = row % q_per_kv;
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

DEVICE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

DEVICE float4 load_l2(const float4* p) {  // L1 may hold a sector from before a neighbour's state was written
    float4 x;
    asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(p) : "memory");
    return x;
}

// One row, 128 columns, one warp: fold the states of a sequence's pieces.
template <i32 HEAD_DIM, typename half_t>
DEVICE void merge_row(const f32* states, i64 slot_floats, const Piece& piece, i32 row, i32 column,
                      const RowSink<half_t>& sink) {
    const i32 lane = threadIdx.x & 31;
    const bool inside = column < HEAD_DIM;
    SoftmaxState total;
    total.init();
    float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float4 part[STATES_IN_FLIGHT];
    for (i32 from = 0; from < piece.num_states; from += 32) {
        const i32 count = min(piece.num_states - from, 32);
        auto load_parts = [&](i32 i) {
#pragma unroll
            for (i32 k = 0; k < STATES_IN_FLIGHT; k++) {
                part[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (i + k < count && inside)
                    part[k] = load_l2((const float4*)(states + piece.slot_of(from + i + k) * slot_floats + column));
            }
        };
        SoftmaxState mine;
        mine.init();
        if (lane < count) {
            const float4 m_l = load_l2((const float4*)(states + piece.slot_of(from + lane) * slot_floats + HEAD_DIM));
            mine.m = m_l.x;
            mine.l = m_l.y;
        }
        load_parts(0);  // on their way while the weights are made
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
        f32 sum = lane < count ? mine.l * weight : 0.0f;
#pragma unroll
        for (i32 apart = 1; apart < 32; apart <<= 1) sum += __shfl_xor_sync(ALL_LANES, sum, apart);
        total.l += sum;
        for (i32 i = 0; i < count; i += STATES_IN_FLIGHT) {
            if (i > 0) load_parts(i);
#pragma unroll
            for (i32 k = 0; k < STATES_IN_FLIGHT; k++) {
                const f32 w = __shfl_sync(ALL_LANES, weight, (i + k) & 31);
                if (i + k < count) {
                    o.x += part[k].x * w;
                    o.y += part[k].y * w;
                    o.z += part[k].z * w;
                    o.w += part[k].w * w;
                }
            }
        }
    }
    if (inside) sink.write(row, column, total, o);
}

// All warps of the team call, also those that folded nothing. `exchange`: the team's shared memory,
// stripes * 8 * ROW_TILES * (V_CHUNK_STRIDE + 2) floats.
template <i32 HEAD_DIM, i32 ROW_TILES, typename half_t>
DEVICE void finish_piece(WarpTile<HEAD_DIM, ROW_TILES>& tile, const Team& team, const Piece& piece, f32* exchange,
                         f32* states, i64 slot_floats, u32* counter, i32 first_row, i32 num_rows,
                         const RowSink<half_t>& sink) {
    constexpr i32 ROWS = 8 * ROW_TILES;
    using Tile = WarpTile<HEAD_DIM, ROW_TILES>;
    const i32 lane = threadIdx.x & 31, g = lane >> 2, j = lane & 3;
    const i32 rows = min(num_rows - first_row, ROWS);
    float2* m_l = (float2*)(exchange + team.stripes * ROWS * V_CHUNK_STRIDE);  // [stripes, ROWS]
    tile.sum_lanes();
    if (g == 0) {
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
            m_l[team.stripe * ROWS + 8 * n + 2 * j] = make_float2(tile.state[n][0].m, tile.state[n][0].l);
            m_l[team.stripe * ROWS + 8 * n + 2 * j + 1] = make_float2(tile.state[n][1].m, tile.state[n][1].l);
        }
    }
    team.sync();
    // every warp's o in units of the team's largest m
    f32 factor[ROW_TILES][2];
#pragma unroll
    for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
        for (i32 e = 0; e < 2; e++) {
            f32 highest = LOWEST_F32;
            for (i32 s = 0; s < team.stripes; s++) highest = fmaxf(highest, m_l[s * ROWS + 8 * n + 2 * j + e].x);
            factor[n][e] = exp2_approx(tile.state[n][e].m - highest);
        }
    }
#pragma unroll 1
    for (i32 w = 0; w < Tile::V_WORDS; w++) {
#pragma unroll
        for (i32 word = 0; word < Tile::V_WORDS; word++) {  // o stays in registers: their indices are constants
            if (w != word) continue;
#pragma unroll
            for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
                for (i32 e = 0; e < 2; e++) {
                    const f32(&low)[4] = tile.o[n][2 * word], (&high)[4] = tile.o[n][2 * word + 1];
                    const f32 x = factor[n][e];
                    *(float4*)(exchange + (team.stripe * ROWS + 8 * n + 2 * j + e) * V_CHUNK_STRIDE + 4 * g) =
                        make_float4(low[e] * x, low[2 + e] * x, high[e] * x, high[2 + e] * x);
                }
            }
        }
        team.sync();
        for (i32 i = team.stripe * 32 + lane; i < rows * 8; i += team.stripes * 32) {
            const i32 row = i >> 3, column = Tile::v_column(w, i & 7);
            SoftmaxState total;
            total.init();
            float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for (i32 s = 0; s < team.stripes; s++) total.m = fmaxf(total.m, m_l[s * ROWS + row].x);
            for (i32 s = 0; s < team.stripes; s++) {
                const float2 other = m_l[s * ROWS + row];
                const float4 part = *(const float4*)(exchange + (s * ROWS + row) * V_CHUNK_STRIDE + 4 * (i & 7));
                total.l += other.y * total.weight(other.x);
                o.x += part.x;
                o.y += part.y;
                o.z += part.z;
                o.w += part.w;
            }
            if (column >= HEAD_DIM) continue;
            if (piece.num_states == 1) {
                sink.write(first_row + row, column, total, o);
            } else {
                f32* state = states + piece.slot * slot_floats + row * (HEAD_DIM + 4);
                *(float4*)(state + column) = o;
                if (column == 0) *(float4*)(state + HEAD_DIM) = make_float4(total.m, total.l, 0.0f, 0.0f);
            }
        }
        team.sync();
    }
    if (piece.num_states == 1) return;

    // the last team to arrive sees every state; the barrier orders the team's writes before the one fence
    u32* arrived = (u32*)m_l;
    if (team.stripe == 0 && lane == 0) {
        fence_gpu();
        *arrived = atomicInc(counter, (u32)piece.num_states - 1);
        fence_gpu();
    }
    team.sync();
    const bool last = *arrived == (u32)piece.num_states - 1;
    if (last) {
        constexpr i32 PARTS = (HEAD_DIM + 127) / 128;
        for (i32 i = team.stripe; i < rows * PARTS; i += team.stripes) {
            const i32 row = i / PARTS;
            merge_row<HEAD_DIM, half_t>(states + row * (HEAD_DIM + 4), slot_floats, piece, first_row + row,
                                        i % PARTS * 128 + lane * 4, sink);
        }
    }
    team.sync();  // the exchange is free for the next piece
}
