// mma.cuh - one warp's tensor-core instructions, and int8 codes widened to their fp16 operands.
//
// mma_16x8x16: C[16, 8] += A[16, 16] * B[16, 8], fp16 (or bf16) in, f32 accumulated. Lane = 4 * g + j holds
//   A  a0: row g, columns 2j, 2j+1   a1: row g+8   a2: row g, columns 2j+8, 2j+9   a3: row g+8, the same columns
//   B  b0: rows 2j, 2j+1 of column g                b1: rows 2j+8, 2j+9
//   C  c[0], c[1]: row g, columns 2j, 2j+1          c[2], c[3]: row g+8
#pragma once
#include "types.cuh"

#define ALL_LANES 0xffffffffu

template <typename half_t>
constexpr bool IS_F16 = false;
template <>
constexpr bool IS_F16<f16> = true;

DEVICE void mma_16x8x16(f32 (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <typename half_t>
DEVICE void mma_halves(f32 (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    if constexpr (IS_F16<half_t>)
        mma_16x8x16(c, a0, a1, a2, a3, b0, b1);
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// An 8 x 8 matrix of 16-bit elements, two a lane; lane (g, j) gives row g and gets column g.
DEVICE u32 transpose_8x8(u32 row) {
    u32 column;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(column) : "r"(row));
    return column;
}

// --- int8 to fp16 without cvt ---
// x ^ 0x80 is x + 128, which as the low byte of 0x6400 (1024) reads as 1152 + x: exact, and less 1152 it is x.

#define F16_BIAS 1152.0f

DEVICE u32 biased(u32 codes) { return codes ^ 0x80808080u; }

// Select bytes by an immediate. `high` is kept in a register: prmt takes one immediate only.
template <u32 SELECTOR>
DEVICE u32 select_bytes(u32 low, u32 high) {
    u32 word;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(low), "r"(high), "n"(SELECTOR));
    return word;
}

// 0x64 four times, opaque: known to the compiler it would take the place of the selector's immediate.
DEVICE u32 f16_high_bytes() {
    u32 word;
    asm volatile("mov.b32 %0, 0x64646464;" : "=r"(word));
    return word;
}

DEVICE u32 minus_1152(u32 pair) {
    u32 difference;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(pair), "r"(0x64806480u));
    return difference;
}

// 1152 + x of the codes 0, 1 and 2, 3 of a biased word.
DEVICE u32 low_pair(u32 biased_codes, u32 high_bytes) { return select_bytes<0x4140>(biased_codes, high_bytes); }
DEVICE u32 high_pair(u32 biased_codes, u32 high_bytes) { return select_bytes<0x4342>(biased_codes, high_bytes); }

DEVICE u32 pack_f16(f32 low, f32 high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <typename half_t>
DEVICE u32 pack(f32 low, f32 high) {
    u32 pair;
    if constexpr (IS_F16<half_t>)
        pair = pack_f16(low, high);
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
