"""Decode: one new query token attends over all that a sequence has in the cache."""

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
layout = KvLayout(num_blocks=8, block_size=16, num_kv_heads=2, head_dim=64)
pools = Int8KvPools.allocate(stream, layout)

kv_len, num_q_heads = 37, 8  # four query heads share a KV head
rng = np.random.default_rng(0)
k = rng.standard_normal((kv_len, 2, 64)).astype(np.float16)
v = rng.standard_normal((kv_len, 2, 64)).astype(np.float16)
q = rng.standard_normal((1, num_q_heads, 64)).astype(np.float16)
block_table = np.array([[6, 0, 3]], np.int32)  # the sequence's first 16 tokens are in block 6
t = np.arange(kv_len)
slots = (block_table[0, t // 16] * 16 + t % 16).astype(np.int32)

to_device = stream.clone_htod
int8_kv_cache_append(stream, to_device(k), to_device(v), pools, to_device(slots))
out = stream.alloc_zeros(q.size, np.float16)
paged_decode_attention_int8(
    stream,
    to_device(q),
    pools,
    to_device(block_table),
    to_device(np.array([kv_len], np.int32)),
    out,
    num_q_heads=num_q_heads,
    max_kv_len=kv_len,
)
found = stream.clone_dtoh(out).reshape(q.shape)

# Against float64 attention over the cache as it is, and over the K and V that went in.
k_cache, v_cache = (reference.dequantize(*reference.quantize(x)) for x in (k, v))
exact, _ = reference.attention(q[0], k_cache, v_cache, softmax_scale=64**-0.5)
unquantised, _ = reference.attention(q[0], k, v, softmax_scale=64**-0.5)
assert np.abs(found[0] - exact).max() <= 1e-3
distance = np.linalg.norm(found[0] - unquantised) / np.linalg.norm(unquantised)
assert distance <= 0.02

print(f"{num_q_heads} heads over {kv_len} tokens: error {np.abs(found[0] - exact).max():.1e}")
print(f"relative distance from attention without quantisation {distance:.2%}")
