// types.cuh - fixed-width types and half-precision conversions for sources that NVRTC compiles without any header.
//
// The names are what the manifest records as C types. f16 and bf16 are distinct structs, so that a template
// tells them apart and a `const f16*` parameter takes a float16 slice and nothing else.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;
struct f16 { u16 bits; };   // IEEE binary16
struct bf16 { u16 bits; };  // bfloat16: the upper half of a binary32

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__

// --- widen: exact ---

DEVICE f32 widen(f16 x) {
    f32 y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

// A shift and no cvt: cvt.f32.bf16 needs sm_90.
DEVICE f32 widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// --- narrow: round to nearest even ---

DEVICE void narrow(f32 x, f16& y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
DEVICE void narrow(f32 x, bf16& y) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }

template <typename half_t>
DEVICE half_t narrowed(f32 x) {
    half_t y;
    narrow(x, y);
    return y;
}

template <typename element_t>
constexpr bool IS_I8 = false;
template <>
constexpr bool IS_I8<i8> = true;

// --- two elements in one word, the first in the low half ---

template <typename half_t>
DEVICE void widen2(u32 word, f32& first, f32& second) {
    half_t low, high;
    low.bits = (u16)word;
    high.bits = (u16)(word >> 16);
    first = widen(low);
    second = widen(high);
}

template <typename half_t>
DEVICE u32 narrow2(f32 first, f32 second) {
    return (u32)narrowed<half_t>(first).bits | (u32)narrowed<half_t>(second).bits << 16;
}

// --- bytes ---

DEVICE u32 permute(u32 low, u32 high, u32 selector) {
    u32 word;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(low), "r"(high), "r"(selector));
    return word;
}

// Four int8 to f32, exact, without I2F (a quarter of the rate): x ^ 0x80 is x + 128, which as the low byte of
// 0x4b000000 (2^23) reads as 2^23 + 128 + x.
DEVICE void widen4(u32 codes, f32* x) {
    codes ^= 0x80808080u;
    x[0] = __uint_as_float(permute(codes, 0x4b000000u, 0x7440)) - 8388736.0f;
    x[1] = __uint_as_float(permute(codes, 0x4b000000u, 0x7441)) - 8388736.0f;
    x[2] = __uint_as_float(permute(codes, 0x4b000000u, 0x7442)) - 8388736.0f;
    x[3] = __uint_as_float(permute(codes, 0x4b000000u, 0x7443)) - 8388736.0f;
}

// --- exp2 and log2, the hardware's (2 ulp; ex2 of -inf is 0) ---

DEVICE f32 exp2_approx(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE f32 log2_approx(f32 x) {
    f32 y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// --- programmatic dependent launch: a launch that asks for it may begin before the one ahead of it has ended ---

// Nothing that an earlier launch may write, and nothing at all that is written, comes before this.
DEVICE void wait_for_earlier_launches() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next launch may begin where this one leaves room; it waits for this one's end by the call above.
DEVICE void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define INFINITY_F32 __uint_as_float(0x7f800000u)
#define NAN_F32 __uint_as_float(0x7fffffffu)
#define LOWEST_F32 __uint_as_float(0xff7fffffu)  // -FLT_MAX
