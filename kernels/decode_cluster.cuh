// decode_cluster.cuh - the states of a sequence's CTAs meet in the shared memory of their cluster.
//
// The CTAs of a cluster run at the same time and read each other's shared memory, so a sequence that is cut into as
// many parts needs no workspace, no counter and no second trip through the L2: two barriers of the cluster do.
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
// Every thread of the cluster calls; what was written before is seen after.
DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}
// The address that `own` has in the CTA of `rank`.
DEVICE u32 of_rank(u32 own, u32 rank) {
    u32 its;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(its) : "r"(own), "r"(rank));
    return its;
}
DEVICE float4 load_cluster(u32 from) {
    float4 x;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(from) : "memory");
    return x;
}

// All warps of the CTA call. `exchange`: (stripes + 1) * rows * (HEAD_DIM + 4) floats, the last part for the CTA's own
// state. Each CTA writes a share of the columns of all rows.
template <i32 HEAD_DIM, i32 ROW_TILES, typename half_t>
DEVICE void finish_in_cluster(WarpTile<HEAD_DIM, ROW_TILES>& tile, const Team& team, f32* exchange, i32 first_row,
                              i32 num_rows, const RowSink<half_t>& sink) {
    constexpr i32 ROWS = 8 * ROW_TILES, STATE = HEAD_DIM + 4, QUADS = HEAD_DIM / 4;
    const i32 rows = min(num_rows - first_row, ROWS);
    const i32 stripe_floats = rows * STATE;
    const u32 ranks = cluster_size();
    f32* own = exchange + team.stripes * stripe_floats;
    tile.sum_lanes();
    leave_state(tile, exchange + team.stripe * stripe_floats, rows);
    __syncthreads();
#pragma unroll 1
    for (i32 i = threadIdx.x; i < rows * QUADS; i += blockDim.x) {
        const i32 row = i / QUADS, column = i % QUADS * 4;
        float4 o;
        const SoftmaxState total =
            fold_states<HEAD_DIM>(exchange + row * STATE, team.stripes, stripe_floats, column, o);
        *(float4*)(own + row * STATE + column) = o;
        if (column == 0) *(float4*)(own + row * STATE + HEAD_DIM) = make_float4(total.m, total.l, 0.0f, 0.0f);
    }
    cluster_sync();
    const u32 states = shared_address(own);
#pragma unroll 1
    for (i32 i = (i32)cluster_rank() + (i32)(threadIdx.x * ranks); i < rows * QUADS; i += (i32)(blockDim.x * ranks)) {
        const i32 row = i / QUADS, column = i % QUADS * 4;
        SoftmaxState total;
        total.init();
        float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        constexpr i32 AT_A_TIME = 8;
#pragma unroll 1
        for (u32 from = 0; from < ranks; from += AT_A_TIME) {
            float4 m_l[AT_A_TIME], part[AT_A_TIME];
#pragma unroll
            for (u32 k = 0; k < AT_A_TIME; k++) {
                const u32 its = of_rank(states + 4 * (u32)(row * STATE), min(from + k, ranks - 1));
                m_l[k] = load_cluster(its + 4 * HEAD_DIM);
                part[k] = load_cluster(its + 4 * (u32)column);
            }
            f32 highest = m_l[0].x;
#pragma unroll
            for (u32 k = 1; k < AT_A_TIME; k++) highest = fmaxf(highest, m_l[k].x);
            const f32 shrink = total.raise(highest);
            o.x *= shrink;
            o.y *= shrink;
            o.z *= shrink;
            o.w *= shrink;
#pragma unroll
            for (u32 k = 0; k < AT_A_TIME; k++) {
                const f32 w = from + k < ranks ? total.weight(m_l[k].x) : 0.0f;
                total.l += m_l[k].y * w;
                o.x += part[k].x * w;
                o.y += part[k].y * w;
                o.z += part[k].z * w;
                o.w += part[k].w * w;
            }
        }
        sink.write(first_row + row, column, total, o);
    }
    cluster_sync();  // no CTA ends while another reads from it
}
