// paged_decode_general.cuh - one decode step of attention over a paged KV cache; every shape, no tensor cores: the body
// of paged_decode_attention_int8 and, with scales of 1, of paged_decode_attention.
//
// MATH    Query head h of sequence b reads KV head g = h / q_per_kv:
//             x[t] = softmax_scale * k_scale[t,g] * sum_d q[h,d] * K[t,g,d]
//             o[h] = sum_t p[t] * v_scale[t,g] * V[t,g,:]          p = softmax(x)
//         A scale is constant along d, so it multiplies once a token, never once an element, and in f32: a v_scale
//         of 1e-5 loses nothing. Masks, soft-cap, ALiBi and sinks: paged_decode_params.cuh. The softmax is carried
//         as a state (m, l, o), softmax_state.cuh: lane groups, warps and CTAs fold their tokens with one function.
//
// TILES   grid   batch_size * num_splits * num_kv_heads * row_tiles, the last fastest: CTAs that run together share
//                the 32-byte sectors of the scales
//         CTA    4 warps; ROWS = 8 query rows (query head x query token) of one KV head, so K and V are read once for
//                q_per_kv * q_len <= 8 and once for every 8 rows beyond, the later reads mostly from L2
//         warp   every fourth tile of STEPS * tokens_per_step tokens of the split
//         lane   8 neighbouring d in one load of 64 bits (int8) or 128 (fp16, bf16); head_dim / 8 lanes, rounded up to a power of two, hold a token
//
// MEMORY  pools, scales and tables: paged_kv.cuh. Only tokens of the split are read, and only their table entries:
//         what lies past kv_len, or in the unused tail of a table, is never touched.
//         shared: 4 * 8 * (head_dim + 4) f32 at most, independent of kv_len
//
// COST    reads 2 * kv_len * num_kv_heads * (head_dim + 2) bytes a sequence (halves: 4 * ... * head_dim), once for every 8 rows; f32 arithmetic,
//         about 16 instructions a row for 16 bytes of K and V, is the ceiling from 4 rows on
// NEEDS   head_dim a multiple of 8 up to 256; num_q_heads a multiple of num_kv_heads; pools and kv_block_stride aligned
//         to 8 bytes (halves: 16). A block number outside [0, num_blocks) and a kv_len above max_kv_len give NaN, never a stray read.
// TWIN    pyferrum_kv/reference/attention.py::paged_decode_attention_int8, paged_decode_attention
#pragma once
#include "paged_decode_params.cuh"
#include "row_tile.cuh"
#include "softmax_state.cuh"

// From L2: L1 may hold a sector of a neighbour's state from before this one was written.
DEVICE float4 load_l2(const f32* p) {
    float4 x;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "l"(p)
                 : "memory");
    return x;
}

// Fold a state and 4 of its columns into another.
DEVICE void fold(SoftmaxState& state, float4& o, SoftmaxState other, float4 part) {
    f32 own, theirs;
    state.merge(other, own, theirs);
    o.x = o.x * own + part.x * theirs;
    o.y = o.y * own + part.y * theirs;
    o.z = o.z * own + part.z * theirs;
    o.w = o.w * own + part.w * theirs;
}

// cap * tanh(x / cap), both in log2 units; tanh.approx is good to 2^-11 only.
DEVICE f32 soft_capped(f32 x, f32 cap) {
    f32 e = exp2_approx(x / cap * (2.0f * LOG2_E));
    return cap * (1.0f - 2.0f / (e + 1.0f));
}

// Where a finished row goes.
template <typename half_t>
struct RowSink {
    half_t* out;
    f32* lse;          // or null
    const f32* sinks;  // or null
    i64 token_stride, head_stride;
    i32 num_q_heads;

    // Join the sink, divide and write columns d .. d + 3; the thread with d == 0 writes lse.
    DEVICE_MEMBER void write(const RowTile& tile, i32 row, i32 d, SoftmaxState state, float4 o) const {
        const i64 token = tile.token_row(row);
        const i32 head = tile.q_head(row);
        f32 factor = 1.0f;
        if (sinks) {
            const f32 sink = sinks[head] * LOG2_E;
            factor = state.raise(sink);
            state.l += state.weight(sink);
        }
        factor *= state.inverse_sum();
        half_t* to = out + token * token_stride + head * head_stride + d;
        to[0] = narrowed<half_t>(o.x * factor);
        to[1] = narrowed<half_t>(o.y * factor);
        to[2] = narrowed<half_t>(o.z * factor);
        to[3] = narrowed<half_t>(o.w * factor);
        if (lse && d == 0) lse[token * num_q_heads + head] = state.lse();
    }
};

template <typename half_t, typename element_t>
DEVICE void paged_decode_attention(PAGED_DECODE_BODY_PARAMS(half_t, element_t)) {
    extern __shared__ __align__(16) f32 shared[];  // q while tokens are read, then the states of the warps
    __shared__ i32 row_position[ROWS];
    __shared__ f32 row_slope[ROWS];
    __shared__ u32 arrived_before;

    // which work
    RowTile tile;
    tile.init(num_q_heads / num_kv_heads, q_len, num_kv_heads, num_splits);
    i32 kv_len = kv_lens ? max(kv_lens[tile.sequence], 0) : max_kv_len;
    if (kv_len > max_kv_len) {
        kv_len = max_kv_len;
        softmax_scale = NAN_F32;
    }
    SplitRange range;
    range.init(kv_len, q_len, window_left, num_splits, split_len, tile.split);
    if (tile.split >= max(range.active_splits, 1)) return;

    // q to shared memory
    LaneMap map;
    map.init(head_dim);
    const i32 warp = threadIdx.x >> 5;
    const i32 padded_log2 = map.lanes_log2 + 3;
    for (i32 i = threadIdx.x; i < tile.num_rows << padded_log2; i += WARPS * 32) {
        i32 row = i >> padded_log2;
        i32 d = i & ((1 << padded_log2) - 1);
        f32 x = 0.0f;
        if (d < head_dim) {
            x = widen(q[tile.token_row(row) * q_token_stride + tile.q_head(row) * q_head_stride + d]);
            if (k_channel_factors) x *= k_channel_factors[(i64)tile.kv_head * head_dim + d];
        }
        shared[map.q_index(row, d)] = x;
    }
    if (threadIdx.x < tile.num_rows) {
        row_position[threadIdx.x] = kv_len - q_len + tile.query_token(threadIdx.x);
        row_slope[threadIdx.x] = alibi_slopes ? alibi_slopes[tile.q_head(threadIdx.x)] * LOG2_E : 0.0f;
    }
    __syncthreads();

    // tokens that every row sees need no mask
    const i32 clear_begin = window_left < 0 ? 0 : row_position[tile.num_rows - 1] - window_left;
    const i32 clear_end = min(range.end, row_position[0] + 1);
    const bool reshaped = alibi_slopes || logit_softcap > 0.0f;
    const f32 scale_log2 = softmax_scale * LOG2_E;
    const f32 softcap_log2 = logit_softcap * LOG2_E;

    PagedKv kv = {kv_block_stride, scale_block_stride, num_kv_heads, head_dim};
    BlockDivider blocks;
    blocks.init(block_size);
    block_table += tile.sequence * block_table_stride;

    SoftmaxState state[ROWS];
    f32 o[ROWS][8];
#pragma unroll
    for (i32 row = 0; row < ROWS; row++) {
        state[row].init();
#pragma unroll
        for (i32 e = 0; e < 8; e++) o[row][e] = 0.0f;
    }

    const i32 tile_tokens = STEPS * map.tokens_per_step;
    i32 first = range.begin + warp * tile_tokens;
    if (range.begin < range.end) {
        TokenTile<element_t> ahead;
        ahead.locate(first, range.end, map, blocks, block_table);
        ahead.load(kv, k_pool, v_pool, k_scales, v_scales, tile.kv_head, map.d, num_blocks);
        ahead.locate(first + WARPS * tile_tokens, range.end, map, blocks, block_table);
        for (; first < range.end; first += WARPS * tile_tokens) {
            // one tile of codes and two of table entries are on their way while this one is folded
            const TokenTile<element_t> now = ahead;
            ahead.load(kv, k_pool, v_pool, k_scales, v_scales, tile.kv_head, map.d, num_blocks);
            ahead.locate(first + 2 * WARPS * tile_tokens, range.end, map, blocks, block_table);
            const bool plain = !reshaped && first >= clear_begin && first + tile_tokens <= clear_end;

            // scores, and from them the weight of V
            f32 weight[ROWS][STEPS];
            f32 x[STEPS][8];
#pragma unroll
            for (i32 i = 0; i < STEPS; i++) {
                now.k[i].widen(x[i]);
            }
#pragma unroll
            for (i32 row = 0; row < ROWS; row++) {
                if (row >= tile.num_rows) break;
                const float4 low = *(const float4*)(shared + map.q_index(row, map.chunk * 8));
                const float4 high = *(const float4*)(shared + map.q_index(row, map.chunk * 8 + 4));
                f32 s[STEPS];
#pragma unroll
                for (i32 i = 0; i < STEPS; i++) {
                    s[i] = low.x * x[i][0] + low.y * x[i][1] + low.z * x[i][2] + low.w * x[i][3];
                    s[i] += high.x * x[i][4] + high.y * x[i][5] + high.z * x[i][6] + high.w * x[i][7];
                }
                for (i32 apart = 1 << map.lanes_log2 >> 1; apart; apart >>= 1) {
#pragma unroll
                    for (i32 i = 0; i < STEPS; i++) s[i] += __shfl_xor_sync(ALL_LANES, s[i], apart);
                }
#pragma unroll
                for (i32 i = 0; i < STEPS; i++) s[i] *= now.k_scale[i] * scale_log2;
                if (!plain) {
#pragma unroll
                    for (i32 i = 0; i < STEPS; i++) {
                        const i32 t = first + i * map.tokens_per_step + map.token;
                        const i32 behind = row_position[row] - t;
                        if (logit_softcap > 0.0f) s[i] = soft_capped(s[i], softcap_log2);
                        s[i] -= row_slope[row] * (f32)behind;
                        const bool hidden = t >= range.end || behind < 0 || (u32)behind > (u32)window_left;
                        if (hidden) s[i] = -INFINITY_F32;
                    }
                }
                f32 highest = s[0];
#pragma unroll
                for (i32 i = 1; i < STEPS; i++) highest = fmaxf(highest, s[i]);
                if (__any_sync(ALL_LANES, highest > state[row].m)) {
                    const f32 factor = state[row].raise(highest);
#pragma unroll
                    for (i32 e = 0; e < 8; e++) o[row][e] *= factor;
                }
#pragma unroll
                for (i32 i = 0; i < STEPS; i++) {
                    const f32 p = state[row].weight(s[i]);
                    state[row].l += p;
                    weight[row][i] = p * now.v_scale[i];
                    // a hidden token must not reach o through a NaN scale: 0 * NaN
                    if (!plain && s[i] == -INFINITY_F32) weight[row][i] = 0.0f;
                }
            }
            // weighted V
#pragma unroll
            for (i32 i = 0; i < STEPS; i++) {
                now.v[i].widen(x[i]);
            }
#pragma unroll
            for (i32 row = 0; row < ROWS; row++) {
                if (row >= tile.num_rows) break;
#pragma unroll
                for (i32 i = 0; i < STEPS; i++) {
                    // nor through NaN in V, which codes do not have
                    if (!IS_I8<element_t> && !plain && weight[row][i] == 0.0f) continue;
#pragma unroll
                    for (i32 e = 0; e < 8; e++) o[row][e] += weight[row][i] * x[i][e];
                }
            }
        }
    }

    // fold the lane groups of the warp, then leave its states in shared memory, where q is no longer needed
    const i32 state_floats = head_dim + 4;
    __syncthreads();
#pragma unroll
    for (i32 row = 0; row < ROWS; row++) {
        if (row >= tile.num_rows) break;
        for (i32 apart = 1 << map.lanes_log2; apart < 32; apart <<= 1) {
            SoftmaxState other;
            other.m = __shfl_xor_sync(ALL_LANES, state[row].m, apart);
            other.l = __shfl_xor_sync(ALL_LANES, state[row].l, apart);
            f32 own, theirs;
            state[row].merge(other, own, theirs);
#pragma unroll
            for (i32 e = 0; e < 8; e++)
                o[row][e] = o[row][e] * own + __shfl_xor_sync(ALL_LANES, o[row][e], apart) * theirs;
        }
        if (map.holds_result(head_dim)) {
            f32* mine = shared + (warp * ROWS + row) * state_floats;
#pragma unroll
            for (i32 e = 0; e < 8; e++) mine[map.d + e] = o[row][e];
            if (map.d == 0) {
                mine[head_dim] = state[row].m;
                mine[head_dim + 1] = state[row].l;
            }
        }
    }
    __syncthreads();

    // fold the warps; alone, this split is the answer, else its state goes to the workspace
    const RowSink<half_t> sink = {out, lse, sinks, out_token_stride, out_head_stride, num_q_heads};
    const i64 first_state = ((i64)tile.sequence * num_kv_heads + tile.kv_head) * tile.q_per_kv * q_len + tile.first_row;
    const i32 quads = head_dim / 4;
    for (i32 i = threadIdx.x; i < tile.num_rows * quads; i += WARPS * 32) {
        const i32 row = i / quads;
        const i32 d = (i - row * quads) * 4;
        SoftmaxState total;
        total.init();
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (i32 from = 0; from < WARPS; from++) {
            const f32* at = shared + (from * ROWS + row) * state_floats;
            fold(total, sum, {at[head_dim], at[head_dim + 1]}, *(const float4*)(at + d));
        }
        if (range.active_splits <= 1) {
            sink.write(tile, row, d, total, sum);
        } else {
            f32* mine = workspace + ((first_state + row) * num_splits + tile.split) * state_floats;
            *(float4*)(mine + d) = sum;
            if (d == 0) *(float4*)(mine + head_dim) = make_float4(total.m, total.l, 0.0f, 0.0f);
        }
    }
    if (range.active_splits <= 1) return;

    // the last CTA to arrive sees every state; atomicInc wraps to 0, which is how the counter is found next time
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) arrived_before = atomicInc(counters + tile.counter, (u32)range.active_splits - 1);
    __syncthreads();
    if (arrived_before != (u32)range.active_splits - 1) return;
    __threadfence();
    for (i32 i = threadIdx.x; i < tile.num_rows * quads; i += WARPS * 32) {
        const i32 row = i / quads;
        const i32 d = (i - row * quads) * 4;
        const f32* at = workspace + (first_state + row) * num_splits * state_floats;
        SoftmaxState total;
        total.init();
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        // in the order of the splits: the same bits whoever arrives last
#pragma unroll 4
        for (i32 from = 0; from < range.active_splits; from++, at += state_floats) {
            const float4 m_l = load_l2(at + head_dim);
            fold(total, sum, {m_l.x, m_l.y}, load_l2(at + d));
        }
        sink.write(tile, row, d, total, sum);
    }
}
