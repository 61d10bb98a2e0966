// kv_quantize.cuh - one row of fp16 or bf16 to INT8 codes and an fp16 scale, by the lanes that hold it.
//
//   scale = max|x| / 127, rounded to fp16 upwards, at least 2^-24        code = rne(x / scale)
//
// A row stays packed, two elements a word, until its codes are made: max|x| is taken of halves, two at a time, and of K
// and V in one reduction. No division is left: where the quotient is rounded afterwards, an approximate one will do.
#pragma once
#include "types.cuh"

#define ALL_LANES 0xffffffffu
#define ROUND_TO_INT 12582912.0f  // 1.5 * 2^23: added to |y| < 2^22, the low byte is rne(y)

// --- the greater magnitude of two pairs of halves; a NaN wins, an infinity passes through ---

DEVICE u32 abs2(f16, u32 x) {
    u32 y;
    asm("abs.f16x2 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}
DEVICE u32 abs2(bf16, u32 x) {
    u32 y;
    asm("abs.bf16x2 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}
DEVICE u32 max2(f16, u32 a, u32 b) {
    u32 y;
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}
DEVICE u32 max2(bf16, u32 a, u32 b) {
    u32 y;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}

// --- eight neighbouring elements ---

// Read once and not kept: nobody else reads K and V of a new token.
DEVICE uint4 load_words(const void* from) {
    uint4 words;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(from));
    return words;
}

template <typename half_t>
DEVICE uint4 load8(const half_t* row, bool vector) {
    if (vector) return load_words(row);
    u32 words[4];
#pragma unroll
    for (i32 w = 0; w < 4; w++) words[w] = (u32)row[2 * w].bits | (u32)row[2 * w + 1].bits << 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Pairwise maxima of |x| over the eight.
template <typename half_t>
DEVICE u32 amax2(uint4 x) {
    const half_t t = {};
    return max2(t, max2(t, abs2(t, x.x), abs2(t, x.y)), max2(t, abs2(t, x.z), abs2(t, x.w)));
}

// max|x| of a row of K in the low half and of V in the high half, by all lanes of the row, from each lane's pairs.
template <typename half_t>
DEVICE u32 row_amax2(u32 k, u32 v, i32 lanes_log2) {
    const half_t t = {};
    u32 amax = max2(t, permute(k, v, 0x5410), permute(k, v, 0x7632));
    for (i32 apart = 1 << lanes_log2 >> 1; apart; apart >>= 1)
        amax = max2(t, amax, __shfl_xor_sync(ALL_LANES, amax, apart));
    return amax;
}

struct RowScale {
    f16 stored;
    f32 scale;
    f32 inverse;  // within 2 ulp: code() needs no more

    // max|x| / 127 in fp16, rounded upwards. The product is off by 2^-23 of itself, so to nearest fp16 it is the right
    // one or the one below; 127 * scale is exact in f32 (18 bits) and tells which.
    DEVICE_MEMBER void init(f32 amax) {
        stored = narrowed<f16>(amax * (1.0f / 127.0f));
        if (127.0f * widen(stored) < amax) stored.bits += 1;
        stored.bits = max(stored.bits, 1);               // an all-zero row: 2^-24, so that no scale is ever 0
        if (stored.bits >= 0x7c00) stored.bits = 0x7e00; // infinity or NaN: the quiet NaN
        scale = widen(stored);
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(scale));
    }
    DEVICE_MEMBER bool poison() const { return stored.bits == 0x7e00; }

    // rne(x / scale) as the low byte. The quotient is exact wherever it matters: x and scale have at most 11 bits, so
    // x / scale is a tie, k + 0.5, or at least 2^-13 away from one; the residual x - y * scale is exact near a tie,
    // and one step with it lands on the tie.
    DEVICE_MEMBER u32 code(f32 x) const {
        f32 y = x * inverse;
        y = __fmaf_rn(__fmaf_rn(-y, scale, x), inverse, y);
        return __float_as_uint(y + ROUND_TO_INT);
    }
    template <typename half_t>
    DEVICE_MEMBER u32 codes4(u32 low, u32 high) const {
        f32 x[4];
        widen2<half_t>(low, x[0], x[1]);
        widen2<half_t>(high, x[2], x[3]);
        const u32 four = permute(permute(code(x[0]), code(x[1]), 0x0040), permute(code(x[2]), code(x[3]), 0x0040),
                                 0x5410);
        return poison() ? 0 : four;
    }
    template <typename half_t>
    DEVICE_MEMBER uint2 codes8(uint4 x) const {
        return make_uint2(codes4<half_t>(x.x, x.y), codes4<half_t>(x.z, x.w));
    }
};
