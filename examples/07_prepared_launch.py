"""A prepared launch: checked once, replayed from several threads, single arguments changed."""

import threading

import numpy as np

from pyferrum_kv import CudaContext, LaunchConfig, PtxLoader
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout

ctx = CudaContext.new(0)
stream = ctx.new_stream()
layout = KvLayout(num_blocks=4, block_size=16, num_kv_heads=1, head_dim=64)
pools = Int8KvPools.allocate(stream, layout)
loader = PtxLoader.of(ctx)  # holds what it loaded: asking again costs a dictionary look-up
append = loader.function("int8_kv_cache_append")
print(append.signature)

# One token a launch. Parameters have names, and the manifest knows their C types.
tokens = np.random.default_rng(0).standard_normal((64, 1, 64)).astype(np.float16)
k, slots = stream.clone_htod(tokens), stream.clone_htod(np.arange(64, dtype=np.int32))
values = {
    "k": k[:64], "v": k[:64], "k_pool": pools.k_pool, "v_pool": pools.v_pool,
    "k_scales": pools.k_scales, "v_scales": pools.v_scales, "slot_mapping": slots[:1],
    "num_slots": layout.num_slots,
    "k_token_stride": 64, "k_head_stride": 64, "v_token_stride": 64, "v_head_stride": 64,
    "kv_block_stride": layout.kv_block_stride, "scale_block_stride": layout.scale_block_stride,
    "num_tokens": 1, "num_kv_heads": 1, "head_dim": 64, "block_size": 16,
}  # fmt: skip
arguments = [values[param.name] for param in append.signature.params]
launch = append.prepare(LaunchConfig((1, 1, 1), (128, 1, 1)), *arguments, stream=stream)


def append_some(first: int) -> None:
    mine = launch.clone()  # each thread changes arguments of its own
    for t in range(first, 64, 4):
        mine.launch_with(
            [
                ("k", k[t * 64 : (t + 1) * 64]),
                ("v", k[t * 64 : (t + 1) * 64]),
                ("slot_mapping", slots[t : t + 1]),
            ]
        )


threads = [threading.Thread(target=append_some, args=(first,)) for first in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

codes = stream.clone_dtoh(pools.k_pool).reshape(64, 64)
assert np.array_equal(np.abs(codes).max(axis=1), np.full(64, 127))  # every row was written
assert np.array_equal(codes, stream.clone_dtoh(pools.v_pool).reshape(64, 64))
print("four threads appended 64 tokens through one prepared launch")
