// half_tile.cuh - decode_tile.cuh over a cache of fp16 or bf16: what one warp does with 16 tokens of one KV head.
//
// The products, the softmax and the fold are WarpTile's. What differs is what a lane's words hold:
//   K  a word is two columns of a token, which is what the A operand wants; nothing is converted. 16 bytes are two k-steps.
//   V  a word of each of two tokens, their halves interleaved, are rows d and d + 8 of the A operand. 16 bytes are 8 columns.
// P enters as V's type. A bf16 cache takes bf16 products and no conversion: a bf16 weight is off by 2^-9, as the bf16
// output is, and l sums the weights unrounded; fp16 operands would lose what V has above 65504.
#pragma once
#include "decode_tile.cuh"
#include "paged_kv.cuh"

template <i32 HEAD_DIM, i32 ROW_TILES, typename half_t>
struct HalfTile : WarpTile<HEAD_DIM, ROW_TILES> {
    using Base = WarpTile<HEAD_DIM, ROW_TILES>;
    using Base::K_STEPS;
    using Base::V_WORDS;
    static_assert(HEAD_DIM == 64 || HEAD_DIM == 128, "16-byte loads throughout; order_columns knows these two");

    // First of the 4 columns in lane j's words 2 * step, 2 * step + 1 of K, and in lane g's 2 * word, 2 * word + 1 of V.
    static DEVICE_MEMBER i32 k_column(i32 step, i32 j) { return (step >> 1) * 32 + j * 8 + (step & 1) * 4; }
    static DEVICE_MEMBER i32 v_column(i32 word, i32 g) { return (word >> 1) * 64 + g * 8 + (word & 1) * 4; }

    // q as B fragments, as it is, and an empty state. Channel factors are not served: rounded to half_t they cost more
    // than lse may be off. NaN says so.
    template <typename q_t>
    DEVICE_MEMBER void load_q(const q_t* q_rows, i64 token_stride, i64 head_stride, const f32* channel_factors,
                              i32 first_row, i32 num_rows, i32 q_per_kv, f32 scale_log2) {
        const i32 lane = threadIdx.x & 31, g = lane >> 2, j = lane & 3;
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
            const i32 row = first_row + 8 * n + g;
            const q_t* from = q_rows + row / q_per_kv * token_stride + row % q_per_kv * head_stride;
#pragma unroll
            for (i32 s = 0; s < K_STEPS; s++) {
                uint2 pairs = make_uint2(0, 0);
                if (row < num_rows) pairs = *(const uint2*)(from + k_column(s, j));
                this->q[n][s][0] = pairs.x;
                this->q[n][s][1] = pairs.y;
            }
            this->q_factor[n][0] = this->q_factor[n][1] = channel_factors ? NAN_F32 : scale_log2;
#pragma unroll
            for (i32 w = 0; w < 2 * V_WORDS; w++) {
#pragma unroll
                for (i32 e = 0; e < 4; e++) this->o[n][w][e] = 0.0f;
            }
            this->state[n][0].init();
            this->state[n][1].init();
        }
    }

    DEVICE_MEMBER void scores(const u32 (&k)[2][2 * K_STEPS], f32 (&s)[ROW_TILES][4]) const {
        f32 odd[ROW_TILES][4];  // two chains: a product waits for the one before it
#pragma unroll
        for (i32 n = 0; n < ROW_TILES; n++) {
#pragma unroll
            for (i32 e = 0; e < 4; e++) s[n][e] = odd[n][e] = 0.0f;
#pragma unroll
            for (i32 step = 0; step < K_STEPS; step++)
                mma_halves<half_t>(step & 1 ? odd[n] : s[n], k[0][2 * step], k[1][2 * step], k[0][2 * step + 1],
                                   k[1][2 * step + 1], this->q[n][step][0], this->q[n][step][1]);
#pragma unroll
            for (i32 e = 0; e < 4; e++) s[n][e] += odd[n][e];
        }
    }

    DEVICE_MEMBER void weigh(f32 (&s)[ROW_TILES][4], f32 k_scale0, f32 k_scale1, f32 v_scale0, f32 v_scale1, bool plain,
                             i32 t, const RowLimits& limits, u32 (&p)[ROW_TILES][2]) {
        Base::template weigh<half_t>(s, k_scale0, k_scale1, v_scale0, v_scale1, plain, t, limits, p);
    }

    DEVICE_MEMBER void accumulate(const u32 (&v)[4][2 * V_WORDS], const u32 (&p)[ROW_TILES][2]) {
#pragma unroll
        for (i32 w = 0; w < 2 * V_WORDS; w++) {
            const u32 a0 = select_bytes<0x5410>(v[0][w], v[1][w]), a1 = select_bytes<0x7632>(v[0][w], v[1][w]);
            const u32 a2 = select_bytes<0x5410>(v[2][w], v[3][w]), a3 = select_bytes<0x7632>(v[2][w], v[3][w]);
#pragma unroll
            for (i32 n = 0; n < ROW_TILES; n++) mma_halves<half_t>(this->o[n][w], a0, a1, a2, a3, p[n][0], p[n][1]);
        }
    }

    // o to the lanes where decode_finish.cuh looks for it, WarpTile's v_column: at head_dim 128 that gives a lane 16
    // neighbouring columns, of which one load here brings 8.
    DEVICE_MEMBER void order_columns() {
        if constexpr (HEAD_DIM == 128) {
            const i32 lane = threadIdx.x & 31, g = lane >> 2, j = lane & 3;
#pragma unroll
            for (i32 n = 0; n < ROW_TILES; n++) {
                f32 ordered[2 * V_WORDS][4];
#pragma unroll
                for (i32 i = 0; i < 2 * V_WORDS; i++) {
                    const i32 word = i >> 1, from = (word & 1) * 2 + (i & 1);
                    const i32 owner = (2 * (g & 3) + (word >> 1)) * 4 + j;
#pragma unroll
                    for (i32 e = 0; e < 4; e++) {
                        const f32 low = __shfl_sync(ALL_LANES, this->o[n][from][e], owner);
                        const f32 high = __shfl_sync(ALL_LANES, this->o[n][from + 4][e], owner);
                        ordered[i][e] = g < 4 ? low : high;
                    }
                }
#pragma unroll
                for (i32 i = 0; i < 2 * V_WORDS; i++) {
#pragma unroll
                    for (i32 e = 0; e < 4; e++) this->o[n][i][e] = ordered[i][e];
                }
            }
        }
    }
};
