// decode_tile.cuh - what one warp does with 16 tokens of one KV head: scores, softmax weights, weighted V, on tensor cores.
//
//   S^T[16 tokens, 8 rows]  = K[16, head_dim] Q^T             K is the A operand, a query row a column of B: a group of
//   O^T[head_dim, 8 rows]  += V^T[head_dim, 16] P^T           up to 8 rows wastes nothing, KV is read once for all
//
// No shuffle and no shared memory between the two: lane = 4 * g + j holds K of tokens token_of(g) and token_of(g) + 1,
// V of the four tokens 2j.., and P crosses over by one movmatrix each 8 tokens. The order of columns in the first
// product and of rows in the second is free, so each lane takes 16 (or 8, or 4) neighbouring bytes of a row.
// The order of tokens is free too: token_of makes both reads of a padded shared-memory tile conflict-free
// (rows of 16 mod 128 bytes: K needs rows 2n and 2n + 1 of the fragment 64 bytes apart, V rows 0, 2, 4, 6 32 apart).
//
// K enters its product as 1152 + k, the form that costs no subtraction; the accumulator starts at -1152 * sum_d q.
// (f32 holds both: the error is 1152 / 127 of a plain product's.) V is summed over all tokens and must enter exact.
//
// v_scale joins P before P becomes fp16, where p * v_scale may underflow. So the running max is taken over
// s + ceil(log2 v_scale): then p * v_scale is near 1 for the token that matters, whatever the scale; l stays f32.
// m is raised only when some score passes it by RAISE_AT: p * v_scale <= 2^RAISE_AT is far inside fp16.
//
// q * k_channel_factors has more digits than fp16, and lse shows it. So with factors a tile holds four rows only: rows
// 0..3 of q are the products rounded to fp16, rows 4..7 what the rounding left, and the scores of the two are added.
#pragma once
#include "mma.cuh"
#include "softmax_state.cuh"

#define TILE_TOKENS 16
#define RAISE_AT 6.0f
#define MINUS_1152_F16 0xe480e480u  // twice

// Token of the tile in row `row` (0..7) of the A fragment; row + 8 holds the next token.
DEVICE i32 token_of(i32 row) { return row & 1 ? ((row + 3) & 7) + 8 : row; }

// Least e with scale <= 2^e, from the exponent bits, not below -30 (l of 2^30 times a long context is still f32).
DEVICE f32 ceil_log2(f32 scale) {
    return fmaxf(__uint_as_float(0x4b000000u | __float_as_uint(scale) >> 23) - (8388608.0f + 126.0f), -30.0f);
}

struct RowLimits {  // what hides or reshapes scores, for the tiles that are not plain
    i32 kv_len, q_len, window_left, q_per_kv, first_row;
    f32 softcap_log2;  // 0: off
    const f32* slopes;  // of this KV head's first query head, or null
    bool paired;        // rows 4..7 are the rest of rows 0..3
};

// x in log2 units, capped: cap * tanh(x / cap); tanh.approx is good to 2^-11 only.
DEVICE f32 capped(f32 x, f32 cap) {
    f32 e = exp2_approx(__fdividef(x, cap) * (2.0f * LOG2_E));
    return cap * (1.0f - __fdividef(2.0f, e + 1.0f));
}

template <i32 HEAD_DIM, i32 ROW_TILES>
struct WarpTile {
    static constexpr i32 K_STEPS = HEAD_DIM / 16;
    static constexpr i32 V_WORDS = (HEAD_DIM + 31) / 32;  // head_dim 80: the third word of half the lanes is not used
    static_assert(HEAD_DIM % 16 == 0, "a k-step is 16 columns, and rows begin at multiples of 16 bytes");
    // Words that lie side by side from every multiple of it on: the width of a reader that has only one.
    static constexpr i32 K_WIDTH = K_STEPS % 4 == 0 ? 4 : K_STEPS % 2 == 0 ? 2 : 1;
    static constexpr i32 V_WIDTH = V_WORDS % 4 == 0 ? 4 : V_WORDS % 2 == 0 ? 2 : 1;

    u32 q[ROW_TILES][K_STEPS][2];
    f32 q_factor[ROW_TILES][2];  // log2-softmax scale of rows 2j, 2j + 1 over the power of two that q was scaled by
    f32 q_bias[ROW_TILES][2];    // -1152 * sum_d q of rows 2j, 2j + 1
    u32 high_bytes;
    f32 o[ROW_TILES][2 * V_WORDS][4];
    SoftmaxState state[ROW_TILES][2];

    // A lane's words of a row come in loads of four while they last, then of a pair, then of one. Lanes beside each
    // other take neighbouring loads, so word `word` of `words` begins at column:
    static DEVICE_MEMBER i32 column_of(i32 word, i32 words, i32 lane, i32 lanes) {
        if (words % 4 == 0 || word < (words & ~3)) return (word >> 2) * (16 * lanes) + lane * 16 + (word & 3) * 4;
        if (words % 2 == 0 || word < (words & ~1)) return (word >> 1) * (8 * lanes) + lane * 8 + (word & 1) * 4;
        return word * (4 * lanes) + lane * 4;
    }
    // First of the 4 columns in word `step` of lane j's K, and in word `word` of lane g's V.
    static DEVICE_MEMBER i32 k_column(i32 step, i32 j) { return column_of(step, K_STEPS, j, 4); }
    static DEVICE_MEMBER i32 v_column(i32 word, i32 g) { return column_of(word, V_WORDS, g, 8); }

    // q of rows first_row + 8 * n + g as B fragments, and an empty state. fp16 q enters as it is. With channel factors
    // (one row tile; of two NaN says that they are not served) rows 4..7 are the rest of rows 0..3.
    template <typename half_t>
    DEVICE_MEMBER void load_q(const half_t* q_rows, i64 token_stride, i64 head_stride, const f32* channel_factors,
                              i32 first_row, i32 num_rows, i32 q_per_kv, f32 scale_log2) {
        const i32 lane = threadIdx.x & 31, g = lane >> 2, j = lane & 3;
        high_bytes = f16_high_bytes();
        if (ROW_TILES > 1 && channel_factors) {
            scale_log2 = NAN_F32;
            channel_factors = nullptr;
        }
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
            const i32 row = first_row + 8 * n + (channel_factors ? g & 3 : g);
            const half_t* from = q_rows + row / q_per_kv * token_stride + row % q_per_kv * head_stride;
#pragma unroll
            for (i32 s = 0; s < K_STEPS; s++) {
                uint2 pairs = make_uint2(0, 0);
                if (row < num_rows) pairs = *(const uint2*)(from + k_column(s, j));
                q[n][s][0] = pairs.x;
                q[n][s][1] = pairs.y;
            }
            q_factor[n][0] = q_factor[n][1] = scale_log2;
            if (!IS_F16<half_t> || channel_factors) rescale_q<half_t>(n, channel_factors);
            // -1152 * sum_d q, where the products will want it
            f32 bias[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (i32 s = 0; s < K_STEPS; s++)
                mma_16x8x16(bias, MINUS_1152_F16, MINUS_1152_F16, MINUS_1152_F16, MINUS_1152_F16, q[n][s][0], q[n][s][1]);
            q_bias[n][0] = bias[0];
            q_bias[n][1] = bias[1];
#pragma unroll
            for (i32 w = 0; w < 2 * V_WORDS; w++) {
#pragma unroll
                for (i32 e = 0; e < 4; e++) o[n][w][e] = 0.0f;
            }
            state[n][0].init();
            state[n][1].init();
        }
    }

    // q times its channel factors, as fp16. A power of two brings each row's largest element to 2^14, so a bf16 row is
    // exact down to 2^-28 of its largest element, and int8 * q * head_dim stays inside f32.
    template <typename half_t>
    DEVICE_MEMBER void rescale_q(i32 n, const f32* channel_factors) {
        const i32 j = threadIdx.x & 3;
        auto widened = [&](i32 s, f32 (&x)[4]) {
            widen2<half_t>(q[n][s][0], x[0], x[1]);
            widen2<half_t>(q[n][s][1], x[2], x[3]);
            if (channel_factors) {
#pragma unroll
                for (i32 e = 0; e < 4; e++) x[e] *= channel_factors[k_column(s, j) + e];
            }
        };
        f32 largest = 0.0f, x[4];
#pragma unroll
        for (i32 s = 0; s < K_STEPS; s++) {
            widened(s, x);
            largest = fmaxf(largest, fmaxf(fmaxf(fabsf(x[0]), fabsf(x[1])), fmaxf(fabsf(x[2]), fabsf(x[3]))));
        }
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
        const i32 exponent = min(max((i32)(__float_as_uint(largest) >> 23), 28), 254);
        const f32 up = __uint_as_float((u32)(127 + 14 + 127 - exponent) << 23);
        const f32 down = __uint_as_float((u32)(exponent - 14) << 23);
#pragma unroll
        for (i32 s = 0; s < K_STEPS; s++) {
            widened(s, x);
            q[n][s][0] = pack_f16(x[0] * up, x[1] * up);
            q[n][s][1] = pack_f16(x[2] * up, x[3] * up);
            if (channel_factors && (threadIdx.x & 16)) {  // g >= 4
                f32 rounded[4];
                widen2<f16>(q[n][s][0], rounded[0], rounded[1]);
                widen2<f16>(q[n][s][1], rounded[2], rounded[3]);
                q[n][s][0] = pack_f16(x[0] * up - rounded[0], x[1] * up - rounded[1]);
                q[n][s][1] = pack_f16(x[2] * up - rounded[2], x[3] * up - rounded[3]);
            }
        }
        q_factor[n][0] *= __shfl_sync(ALL_LANES, down, 8 * j);
        q_factor[n][1] *= __shfl_sync(ALL_LANES, down, 8 * j + 4);
    }

    // s[n] = codes of the two tokens times q: [0], [1] rows 2j, 2j + 1 of the first token; [2], [3] of the second.
    DEVICE_MEMBER void scores(const u32 (&k)[2][K_STEPS], f32 (&s)[ROW_TILES][4]) const {
        f32 odd[ROW_TILES][4];  // two chains: a product waits for the one before it
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
            for (i32 e = 0; e < 4; e++) {
                s[n][e] = q_bias[n][e & 1];
                odd[n][e] = 0.0f;
            }
        }
#pragma unroll
        for (i32 step = 0; step < K_STEPS; step++) {
            const u32 first = biased(k[0][step]), second = biased(k[1][step]);
            const u32 a0 = low_pair(first, high_bytes), a1 = low_pair(second, high_bytes);
            const u32 a2 = high_pair(first, high_bytes), a3 = high_pair(second, high_bytes);
#pragma unroll
            for (i32 n = 0; n < ROW_TILES; n++)
                mma_16x8x16(step & 1 ? odd[n] : s[n], a0, a1, a2, a3, q[n][step][0], q[n][step][1]);
        }
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
            for (i32 e = 0; e < 4; e++) s[n][e] += odd[n][e];
        }
    }

    // Scores to weights p * v_scale, as the B operand of the second product. `t` is the tile's first token.
    template <typename weight_t = f16>
    DEVICE_MEMBER void weigh(f32 (&s)[ROW_TILES][4], f32 k_scale0, f32 k_scale1, f32 v_scale0, f32 v_scale1, bool plain,
                             i32 t, const RowLimits& limits, u32 (&p)[ROW_TILES][2]) {
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
            s[n][0] *= k_scale0 * q_factor[n][0];
            s[n][1] *= k_scale0 * q_factor[n][1];
            s[n][2] *= k_scale1 * q_factor[n][0];
            s[n][3] *= k_scale1 * q_factor[n][1];
        }
        if (__builtin_expect(!plain, 0)) reshape(s, v_scale0, v_scale1, t, limits);
        const f32 e0 = ceil_log2(v_scale0), e1 = ceil_log2(v_scale1);
        bool raise = false;
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
            raise |= fmaxf(s[n][0] + e0, s[n][2] + e1) > state[n][0].m + RAISE_AT;
            raise |= fmaxf(s[n][1] + e0, s[n][3] + e1) > state[n][1].m + RAISE_AT;
        }
        if (__any_sync(ALL_LANES, raise)) {
#pragma unroll
            for (i32 n = 0; n < ROW_TILES; n++) {
                f32 high0 = fmaxf(s[n][0] + e0, s[n][2] + e1), high1 = fmaxf(s[n][1] + e0, s[n][3] + e1);
#pragma unroll
                for (i32 apart = 4; apart < 32; apart <<= 1) {
                    high0 = fmaxf(high0, __shfl_xor_sync(ALL_LANES, high0, apart));
                    high1 = fmaxf(high1, __shfl_xor_sync(ALL_LANES, high1, apart));
                }
                const f32 factor0 = state[n][0].raise(high0), factor1 = state[n][1].raise(high1);
#pragma unroll
                for (i32 w = 0; w < 2 * V_WORDS; w++) {
                    o[n][w][0] *= factor0;
                    o[n][w][1] *= factor1;
                    o[n][w][2] *= factor0;
                    o[n][w][3] *= factor1;
                }
            }
        }
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
            const f32 p0 = state[n][0].weight(s[n][0]), p1 = state[n][1].weight(s[n][1]);
            const f32 p2 = state[n][0].weight(s[n][2]), p3 = state[n][1].weight(s[n][3]);
            state[n][0].l += p0 + p2;
            state[n][1].l += p1 + p3;
            p[n][0] = transpose_8x8(pack<weight_t>(p0 * v_scale0, p1 * v_scale0));
            p[n][1] = transpose_8x8(pack<weight_t>(p2 * v_scale1, p3 * v_scale1));
        }
    }

    // Soft-cap, ALiBi, and tokens that a row does not see. A token that no row sees may hold anything: NaN scales too.
    DEVICE_MEMBER void reshape(f32 (&s)[ROW_TILES][4], f32& v_scale0, f32& v_scale1, i32 t, const RowLimits& limits) {
        const i32 lane = threadIdx.x & 31, j = lane & 3;
        const i32 first = t + token_of(lane >> 2);
        if (ROW_TILES == 1 && limits.paired) {  // both halves get the sum; nobody reads what becomes of rows 4..7
#pragma unroll
            for (i32 e = 0; e < 4; e++) s[0][e] += __shfl_xor_sync(ALL_LANES, s[0][e], 2);
        }
        const u32 inverse = (1u << 20) / (u32)limits.q_per_kv + 1;  // row * inverse >> 20 is row / q_per_kv: rows are few
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
            for (i32 odd = 0; odd < 2; odd++) {
                const i32 row = limits.first_row + 8 * n + 2 * j + odd;
                const i32 q_token = (i32)((u32)row * inverse >> 20);
                const i32 behind = limits.kv_len - limits.q_len + q_token - first;
                f32 slope = 0.0f;
                if (limits.slopes && q_token < limits.q_len)
                    slope = limits.slopes[row - q_token * limits.q_per_kv] * LOG2_E;
#pragma unroll
                for (i32 next = 0; next < 2; next++) {
                    f32& x = s[n][2 * next + odd];
                    if (limits.softcap_log2 > 0.0f) x = capped(x, limits.softcap_log2);
                    x -= slope * (f32)(behind - next);
                    if (behind < next || (u32)(behind - next) > (u32)limits.window_left) x = -INFINITY_F32;
                }
            }
        }
        const i32 first_visible = limits.window_left < 0 ? 0 : limits.kv_len - limits.q_len - limits.window_left;
        if (first >= limits.kv_len || first < first_visible) v_scale0 = 0.0f;
        if (first + 1 >= limits.kv_len || first + 1 < first_visible) v_scale1 = 0.0f;
    }

    // o += weights * V; v holds the tokens of columns 2j, 2j + 1, 2j + 8, 2j + 9 of the fragment.
    DEVICE_MEMBER void accumulate(const u32 (&v)[4][V_WORDS], const u32 (&p)[ROW_TILES][2]) {
#pragma unroll
        for (i32 w = 0; w < V_WORDS; w++) {
            const u32 v0 = biased(v[0][w]), v1 = biased(v[1][w]), v2 = biased(v[2][w]), v3 = biased(v[3][w]);
            // bytes of two tokens side by side: columns 0, 1 of the word, then 2, 3
            const u32 left01 = select_bytes<0x5140>(v0, v1), left23 = select_bytes<0x7362>(v0, v1);
            const u32 right01 = select_bytes<0x5140>(v2, v3), right23 = select_bytes<0x7362>(v2, v3);
#pragma unroll
            for (i32 half = 0; half < 2; half++) {
                const u32 left = half ? left23 : left01, right = half ? right23 : right01;
                const u32 a0 = minus_1152(low_pair(left, high_bytes)), a1 = minus_1152(high_pair(left, high_bytes));
                const u32 a2 = minus_1152(low_pair(right, high_bytes)), a3 = minus_1152(high_pair(right, high_bytes));
#pragma unroll
                for (i32 n = 0; n < ROW_TILES; n++)
                    mma_16x8x16(o[n][2 * w + half], a0, a1, a2, a3, p[n][0], p[n][1]);
            }
        }
    }

    // The lane's share of l becomes the row's.
    DEVICE_MEMBER void sum_lanes() {
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
            for (i32 apart = 4; apart < 32; apart <<= 1) {
                state[n][0].l += __shfl_xor_sync(ALL_LANES, state[n][0].l, apart);
                state[n][1].l += __shfl_xor_sync(ALL_LANES, state[n][1].l, apart);
            }
        }
    }
};
