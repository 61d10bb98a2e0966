"""Memory: allocate, copy in and out, look at a part of it, read it as another type.

Examples run on the GPU, or without one as PYFERRUM_KV_DRIVER=virtual python examples/01_....py
"""

import numpy as np

from pyferrum_kv import CudaContext, bfloat16

ctx = CudaContext.new(0)  # the primary context of device 0, which other libraries share
stream = ctx.new_stream()

# A slice owns device memory: a length and a dtype, no shape. Shapes belong to operations.
zeros = stream.alloc_zeros(1000, np.float32)
x = stream.clone_htod(np.arange(1000, dtype=np.float32))
assert len(x) == 1000
assert x.num_bytes == 4000

# A view borrows a part, and keeps its owner alive. Bounds are checked.
head, tail = x.split_at(600)
stream.memcpy_dtod(tail, zeros[:400])
stream.memset(zeros[400:], 1.5)

# clone_dtoh waits for the stream, so the array is complete when you have it.
result = stream.clone_dtoh(zeros)
assert np.array_equal(result[:400], np.arange(600, 1000))
assert np.all(result[400:] == 1.5)

# The same bytes as another type; bfloat16 is a dtype of this package, NumPy has none.
assert len(head.view(np.int8)) == 2400
assert head.view(bfloat16).num_bytes == head.num_bytes

# A copy to pinned memory is asynchronous; wait() returns its array when the copy has arrived.
pinned = ctx.alloc_pinned(1000, np.float32)
stream.memcpy_dtoh(x, pinned)
assert pinned.wait()[999] == 999

# close() frees now, in stream order; `with` does it for you, and so does dropping the last name.
with stream.alloc_zeros(1 << 20, np.uint8) as scratch:
    assert not scratch.is_closed
assert scratch.is_closed

print(f"{ctx.name}: copied {x.num_bytes} bytes in and out, {x!r}")
