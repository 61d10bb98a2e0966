"""A decoding step as a CUDA graph: captured once, replayed for token after token.

What changes from step to step lies in device memory (K and V of the new token, its slot, the
length, the query), so the graph stays as it is and a step costs one launch.
"""

import numpy as np

from pyferrum_kv import CudaContext, int8_kv, reference

ctx = CudaContext.new(0)
stream = ctx.new_stream()
layout = int8_kv.KvLayout(num_blocks=2, block_size=16, num_kv_heads=1, head_dim=64)
pools = int8_kv.Int8KvPools.allocate(stream, layout)
int8_kv.preload(ctx, stream)  # loads modules and reserves memory, which a capture cannot

k, v, q, out = (stream.alloc_zeros(64, np.float16) for _ in range(4))
slot, kv_len = stream.alloc_zeros(1, np.int32), stream.alloc_zeros(1, np.int32)
block_table = stream.clone_htod(np.array([[1, 0]], np.int32))

with stream.capture() as graph:
    int8_kv.int8_kv_cache_append(stream, k, v, pools, slot)
    int8_kv.paged_decode_attention_int8(
        stream, q, pools, block_table, kv_len, out, num_q_heads=1, max_kv_len=layout.num_slots
    )

# Four steps. The graph keeps alive what it uses, and nothing was launched while it was captured.
rows = np.random.default_rng(0).standard_normal((3, 4, 1, 64)).astype(np.float16)
for t in range(4):
    for host, device in zip(rows[:, t], (k, v, q), strict=True):
        stream.memcpy_htod(host.ravel(), device)
    stream.memcpy_htod(np.array([16 + t], np.int32), slot)  # block 1 comes first in the table
    stream.memcpy_htod(np.array([t + 1], np.int32), kv_len)
    graph.launch()
    attended = stream.clone_dtoh(out)

    so_far = (reference.dequantize(*reference.quantize(x[: t + 1])) for x in rows[:2])
    exact, _ = reference.attention(rows[2, t], *so_far, softmax_scale=64**-0.5)
    assert np.abs(attended - exact[0]).max() <= 1e-3
    print(f"step {t}: {t + 1} tokens, error {np.abs(attended - exact[0]).max():.1e}")
