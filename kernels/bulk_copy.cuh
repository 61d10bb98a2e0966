// bulk_copy.cuh - Hopper's asynchronous copies into shared memory and the barriers that tell of their end.
//
// One lane asks for a copy of any size and goes on; the copy engine computes the addresses, so neither registers nor
// load instructions stand between memory and the tile. An mbarrier completes a phase when as many arrivals as it was
// made for have come and as many bytes as were announced have landed; waiters name the parity of the phase.
//
// The box of a tensor map lands as rows of CHUNK bytes, 16 bytes swizzled: their place within a span of 8 CHUNK-wide
// banks is XORed with the row, so that lanes that read one column of 8 rows touch all banks (TensorMap, below).
#pragma once
#include "types.cuh"

// A CUtensorMap, 128 opaque bytes that cuTensorMapEncodeTiled writes.
struct __align__(64) TensorMap { u64 opaque[16]; };

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

DEVICE void barrier_init(u32 barrier, i32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Inits become visible to the copy engine; a __syncthreads() makes them visible to the CTA.
DEVICE void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(barrier) : "memory");
}
// One arrival, and a promise of so many bytes.
DEVICE void barrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(barrier),
                 "r"(bytes) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred passed;\n"
        "AGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
        "@!passed bra AGAIN;\n"
        "}" ::"r"(barrier), "r"(parity) : "memory");
}

// What is read once should not push out of the L2 what is read again: tables, queries, this code.
DEVICE u64 evict_first() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// size and both addresses are multiples of 16.
DEVICE void bulk_copy(u32 to, const void* from, u32 bytes, u32 barrier, u64 policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
}
// A box at (column, token, chunk, head, block); what lies outside the tensor lands as zeros.
DEVICE void bulk_copy_box(u32 to, const TensorMap& map, i32 token, i32 head, i32 block, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(to), "l"(&map), "r"(0), "r"(token), "r"(0), "r"(head),
        "r"(block), "r"(barrier), "l"(policy) : "memory");
}
DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
