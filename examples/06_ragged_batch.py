"""A batch: sequences of several lengths in one pool, attended over in one call, with their LSE."""

import numpy as np

from pyferrum_kv import CudaContext, reference
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    int8_kv_cache_append,
    paged_decode_attention_int8,
)

ctx = CudaContext.new(0)
stream = ctx.new_stream()
layout = KvLayout(num_blocks=12, block_size=8, num_kv_heads=2, head_dim=64)
pools = Int8KvPools.allocate(stream, layout)
kv_lens = np.array([1, 0, 41, 16], np.int32)
rng = np.random.default_rng(0)

# Each sequence takes free blocks as it needs them. Rows of the table are padded; a kernel reads a
# row only as far as its kv_len needs.
free = list(rng.permutation(layout.num_blocks))
block_table = np.zeros((len(kv_lens), layout.blocks_for(max(kv_lens))), np.int32)
slots = []
for row, kv_len in zip(block_table, kv_lens, strict=True):
    used = layout.blocks_for(kv_len)
    row[:used] = [free.pop() for _ in range(used)]
    t = np.arange(kv_len)
    slots.append(row[t // 8] * 8 + t % 8)
slot_mapping = np.concatenate(slots).astype(np.int32)

k = rng.standard_normal((len(slot_mapping), 2, 64)).astype(np.float16)
v = rng.standard_normal((len(slot_mapping), 2, 64)).astype(np.float16)
q = rng.standard_normal((len(kv_lens), 4, 64)).astype(np.float16)

to_device = stream.clone_htod
int8_kv_cache_append(stream, to_device(k), to_device(v), pools, to_device(slot_mapping))
out = stream.alloc_zeros(q.size, np.float16)
lse = stream.alloc_zeros(len(kv_lens) * 4, np.float32)
paged_decode_attention_int8(
    stream,
    to_device(q),
    pools,
    to_device(block_table),
    to_device(kv_lens),
    out,
    num_q_heads=4,
    max_kv_len=int(max(kv_lens)),
    lse=lse,
)
found, found_lse = stream.clone_dtoh(out).reshape(q.shape), stream.clone_dtoh(lse).reshape(-1, 4)

ends = np.cumsum(kv_lens)
for b, (end, kv_len) in enumerate(zip(ends, kv_lens, strict=True)):
    tokens = slice(end - kv_len, end)
    cached = (reference.dequantize(*reference.quantize(x[tokens])) for x in (k, v) if kv_len)
    if kv_len:
        exact, exact_lse = reference.attention(q[b], *cached, softmax_scale=64**-0.5)
        assert np.abs(found[b] - exact).max() <= 1e-3
        assert np.abs(found_lse[b] - exact_lse).max() <= 1e-3
    else:  # nothing to attend over: zeros, and the LSE that changes nothing when merged
        assert not found[b].any()
        assert np.isneginf(found_lse[b]).all()
print(f"{len(kv_lens)} sequences of {kv_lens.tolist()} tokens in one call")
