// rotary.cuh - rotary embedding of eight neighbouring elements of a row.
//
//   pair i of a position turns by an angle, i < rotary_dim / 2:    a' = a cos_i - b sin_i      b' = b cos_i + a sin_i
//   half-split (neox):  a = x[i], b = x[i + rotary_dim / 2]        interleaved:  a = x[2i], b = x[2i + 1]
//   elements from rotary_dim on stay
//
// Products and the sum are rounded to f32 one by one, never fused, and the result to the row's half type: the bits that
// a rotation of its own would have stored.
#pragma once
#include "types.cuh"

struct Rotary {
    const f32* table;  // the position's cosines and then its sines; null outside: everything turns to NaN
    i32 rotary_dim;
    i32 half;          // rotary_dim / 2
    bool interleaved;
    bool whole;        // a chunk of 8 turns or stays as one, its partner is a chunk, the table is read by 16 bytes

    DEVICE_MEMBER void init(const f32* cos_sin, i32 position, i32 max_position, i32 dim, bool pairs_adjoin) {
        table = position >= 0 && position < max_position ? cos_sin + (i64)position * dim : nullptr;
        rotary_dim = dim;
        half = dim / 2;
        interleaved = pairs_adjoin;
        whole = half % (interleaved ? 4 : 8) == 0 && ((u64)cos_sin & 15) == 0;
    }

    // The chunk at d has elements that turn.
    DEVICE_MEMBER bool turns(i32 d) const { return d < rotary_dim; }
    // Where the partners of a whole chunk at d lie.
    DEVICE_MEMBER i32 partner(i32 d) const { return d < half ? d + half : d - half; }

    // `partner` holds the other elements of the pairs; interleaved, they are in `own` and it is not looked at.
    template <typename half_t>
    DEVICE_MEMBER uint4 turned(i32 d, uint4 own, uint4 partner) const {
        f32 x[8], other[8], cosine[8], sine[8];
        widen8<half_t>(own, x);
        widen8<half_t>(partner, other);
        angles(d, cosine, sine);
#pragma unroll
        for (i32 e = 0; e < 8; e++) {
            const bool is_a = interleaved ? e % 2 == 0 : d + e < half;
            const f32 b = interleaved ? x[e ^ 1] : other[e];
            const f32 y = __fadd_rn(__fmul_rn(x[e], cosine[e]), __fmul_rn(b, is_a ? -sine[e] : sine[e]));
            other[e] = d + e < rotary_dim ? y : x[e];
        }
        return make_uint4(narrow2<half_t>(other[0], other[1]), narrow2<half_t>(other[2], other[3]),
                          narrow2<half_t>(other[4], other[5]), narrow2<half_t>(other[6], other[7]));
    }

private:
    template <typename half_t>
    DEVICE_MEMBER static void widen8(uint4 words, f32* x) {
        widen2<half_t>(words.x, x[0], x[1]);
        widen2<half_t>(words.y, x[2], x[3]);
        widen2<half_t>(words.z, x[4], x[5]);
        widen2<half_t>(words.w, x[6], x[7]);
    }
    DEVICE_MEMBER i32 pair_of(i32 d) const { return interleaved ? d / 2 : d < half ? d : d - half; }
    DEVICE_MEMBER void angles(i32 d, f32* cosine, f32* sine) const {
        if (!table) {
#pragma unroll
            for (i32 e = 0; e < 8; e++) cosine[e] = sine[e] = NAN_F32;
        } else if (whole) {
            const f32* from = table + pair_of(d);
            f32 c[8], s[8];
            *(float4*)c = *(const float4*)from;
            *(float4*)s = *(const float4*)(from + half);
            *(float4*)(c + 4) = interleaved ? *(float4*)c : *(const float4*)(from + 4);
            *(float4*)(s + 4) = interleaved ? *(float4*)s : *(const float4*)(from + half + 4);
#pragma unroll
            for (i32 e = 0; e < 8; e++) {
                cosine[e] = interleaved ? c[e / 2] : c[e];
                sine[e] = interleaved ? s[e / 2] : s[e];
            }
        } else {
#pragma unroll
            for (i32 e = 0; e < 8; e++) {
                const bool inside = d + e < rotary_dim;
                cosine[e] = inside ? table[pair_of(d + e)] : 0.0f;
                sine[e] = inside ? table[half + pair_of(d + e)] : 0.0f;
            }
        }
    }
};
