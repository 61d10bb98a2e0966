"""Append: fp16 K and V become int8 codes and fp16 scales, each token at its slot of the pool."""

import numpy as np

from pyferrum_kv import CudaContext, reference
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, int8_kv_cache_append

ctx = CudaContext.new(0)
stream = ctx.new_stream()
layout = KvLayout(num_blocks=8, block_size=16, num_kv_heads=2, head_dim=128)
pools = Int8KvPools.allocate(stream, layout)

# Twenty tokens of one sequence, whose blocks are 5 and 2: sixteen tokens in one, four in the other.
num_tokens = 20
rng = np.random.default_rng(0)
k = rng.standard_normal((num_tokens, 2, 128)).astype(np.float16)
v = rng.standard_normal((num_tokens, 2, 128)).astype(np.float16)
blocks = np.array([5, 2], np.int32)
t = np.arange(num_tokens)
slots = blocks[t // 16] * 16 + t % 16  # slot = physical_block * block_size + block_offset

int8_kv_cache_append(
    stream,
    stream.clone_htod(k),
    stream.clone_htod(v),
    pools,
    stream.clone_htod(slots.astype(np.int32)),
)

# Bit for bit what the reference says, at these slots.
codes = stream.clone_dtoh(pools.k_pool).reshape(layout.num_slots, 2, 128)[slots]
scales = stream.clone_dtoh(pools.k_scales).reshape(layout.num_slots, 2)[slots]
wanted_codes, wanted_scales = reference.quantize(k)
assert np.array_equal(codes, wanted_codes)
assert np.array_equal(scales.view(np.uint16), wanted_scales.view(np.uint16))

# A value is code * scale, and never further than half a scale from what was appended.
error = np.abs(reference.dequantize(codes, scales) - k)
assert (error <= scales[..., None].astype(np.float64) / 2).all()

print(f"{num_tokens} tokens in slots {slots[0]}..{slots[15]} and {slots[16]}..{slots[19]}")
print(f"largest error {error.max():.4f}, largest scale {scales.max():.4f}")
print(f"{layout.total_bytes} bytes hold what fp16 holds in {layout.fp16_bytes}")
