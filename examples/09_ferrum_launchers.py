"""ferrum-kernels' launchers: its names, arguments and order, one sequence, the default stream."""

import numpy as np

from pyferrum_kv import CudaContext, reference
from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv import launch_int8_kv_cache_append, launch_int8_paged_decode_attention

NUM_BLOCKS, BLOCK_SIZE, NUM_Q_HEADS, NUM_KV_HEADS, HEAD_DIM = 4, 16, 4, 2, 64
num_tokens = 20

ctx = CudaContext.new(0)
stream = ctx.default_stream()
num_rows = NUM_BLOCKS * BLOCK_SIZE * NUM_KV_HEADS
k_pool, v_pool = (stream.alloc_zeros(num_rows * HEAD_DIM, np.int8) for _ in range(2))
k_scales_pool, v_scales_pool = (stream.alloc_zeros(num_rows, np.float16) for _ in range(2))

rng = np.random.default_rng(0)
k_in, v_in = rng.standard_normal((2, num_tokens, NUM_KV_HEADS, HEAD_DIM)).astype(np.float16)
q = rng.standard_normal((NUM_Q_HEADS, HEAD_DIM)).astype(np.float16)
blocks = np.array([3, 1], np.int32)
t = np.arange(num_tokens)
slots = (blocks[t // BLOCK_SIZE] * BLOCK_SIZE + t % BLOCK_SIZE).astype(np.int32)

launch_int8_kv_cache_append(
    ctx, stream.clone_htod(k_in), stream.clone_htod(v_in),
    k_pool, v_pool, k_scales_pool, v_scales_pool, stream.clone_htod(slots),
    num_tokens, NUM_KV_HEADS, HEAD_DIM,
)  # fmt: skip

arguments = [
    ctx, stream.clone_htod(q), k_pool, v_pool, k_scales_pool, v_scales_pool,
    stream.clone_htod(blocks), stream.alloc_zeros(q.size, np.float16),
    NUM_Q_HEADS, NUM_KV_HEADS, HEAD_DIM, num_tokens, BLOCK_SIZE, HEAD_DIM**-0.5,
]  # fmt: skip
launch_int8_paged_decode_attention(*arguments)
found = stream.clone_dtoh(arguments[7]).reshape(q.shape)

cached = (reference.dequantize(*reference.quantize(x)) for x in (k_in, v_in))
exact, _ = reference.attention(q, *cached, softmax_scale=HEAD_DIM**-0.5)
assert np.abs(found - exact).max() <= 1e-3
print(f"{num_tokens} tokens appended and attended over, error {np.abs(found - exact).max():.1e}")

# What cudarc's signature cannot say is checked here: a length past the table, a wrong head count.
for position, value in [(11, 33), (8, 3)]:
    wrong = [*arguments[:position], value, *arguments[position + 1 :]]
    try:
        launch_int8_paged_decode_attention(*wrong)
    except ArgumentError as refused:
        print(refused)
    else:
        raise AssertionError(f"{value} was taken for argument {position}")
