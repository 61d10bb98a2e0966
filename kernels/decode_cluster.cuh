// decode_cluster.cuh - the states of a sequence's CTAs meet in the shared memory of their cluster.
//
// The CTAs of a cluster run at the same time and write into each other's shared memory, so a sequence that is cut into
// as many parts needs no workspace, no counter and no second trip through the L2. Each CTA is brought what the others
// have of the columns that it writes. Nobody is read from, so nobody is waited for at the end.
#pragma once
#include "decode_finish.cuh"

DEVICE u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
DEVICE u32 cluster_size() {
    u32 size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}
// Every thread of the cluster calls; what was written before the one is seen after the other.
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }
// The address that `own` has in the CTA of `rank`.
DEVICE u32 of_rank(u32 own, u32 rank) {
    u32 its;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(its) : "r"(own), "r"(rank));
    return its;
}
DEVICE void store_cluster(u32 to, float4 x) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(to), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
                 : "memory");
}
DEVICE void store_cluster(u32 to, float2 x) {
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1,%2};" ::"r"(to), "f"(x.x), "f"(x.y) : "memory");
}

// All warps of the CTA call, after a cluster_arrive(). `exchange`: stripes * rows * (HEAD_DIM + 4) floats, and behind
// them rows * HEAD_DIM * 3 / 2 that are brought: o float4 [ranks, quads of columns], m and l float2 likewise. A cluster
// has a power of two of CTAs, and quad i of all rows is written by CTA i % ranks.
template <i32 HEAD_DIM, i32 ROW_TILES, typename half_t>
DEVICE void finish_in_cluster(WarpTile<HEAD_DIM, ROW_TILES>& tile, const Team& team, f32* exchange, i32 first_row,
                              i32 num_rows, const RowSink<half_t>& sink) {
    constexpr i32 ROWS = 8 * ROW_TILES, STATE = HEAD_DIM + 4, QUADS = HEAD_DIM / 4;
    const i32 rows = min(num_rows - first_row, ROWS);
    const i32 stripe_floats = rows * STATE;
    const i32 rank = (i32)cluster_rank(), ranks = (i32)cluster_size(), ranks_log2 = 31 - __clz(ranks);
    const i32 quads = rows * QUADS >> ranks_log2;  // that this CTA writes
    float4* o_brought = (float4*)(exchange + team.stripes * stripe_floats);
    float2* m_l_brought = (float2*)(o_brought + rows * QUADS);
    tile.sum_lanes();
    leave_state(tile, exchange + team.stripe * stripe_floats, rows);
    __syncthreads();
    cluster_wait();  // all have begun
#pragma unroll 1
    for (i32 i = threadIdx.x; i < rows * QUADS; i += blockDim.x) {
        const i32 row = i / QUADS, column = i % QUADS * 4;
        float4 o;
        const SoftmaxState total =
            fold_states<HEAD_DIM>(exchange + row * STATE, team.stripes, stripe_floats, column, o);
        const i32 place = rank * quads + (i >> ranks_log2), whose = i & (ranks - 1);
        store_cluster(of_rank(shared_address(o_brought + place), whose), o);
        store_cluster(of_rank(shared_address(m_l_brought + place), whose), make_float2(total.m, total.l));
    }
    cluster_arrive();
    cluster_wait();
#pragma unroll 1
    for (i32 n = threadIdx.x; n < quads; n += blockDim.x) {
        const i32 i = (n << ranks_log2) + rank;
        const i32 row = i / QUADS, column = i % QUADS * 4;
        SoftmaxState total;
        total.init();
        float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (i32 from = 0; from < ranks; from++) total.m = fmaxf(total.m, m_l_brought[from * quads + n].x);
#pragma unroll 4
        for (i32 from = 0; from < ranks; from++) {
            const float2 m_l = m_l_brought[from * quads + n];
            const float4 part = o_brought[from * quads + n];
            const f32 w = total.weight(m_l.x);
            total.l += m_l.y * w;
            o.x += part.x * w;
            o.y += part.y * w;
            o.z += part.z * w;
            o.w += part.w * w;
        }
        sink.write(first_row + row, column, total, o);
    }
}
