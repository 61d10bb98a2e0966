// types.cuh - fixed-width types for sources that NVRTC compiles without any header.
//
// The names are what the manifest records as C types: a `const f16*` parameter takes a float16 slice and
// nothing else, although f16 and bf16 are both sixteen bits to the compiler.
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
typedef unsigned short f16;   // IEEE binary16 bits
typedef unsigned short bf16;  // bfloat16 bits

#define DEVICE static __device__ __forceinline__
