"""Order between streams: events, wait, join, fork. Time between two points of a stream."""

import numpy as np

from pyferrum_kv import CudaContext

ctx = CudaContext.new(0)
upload, compute = ctx.new_stream(), ctx.new_stream(priority=-1)

# Work on one stream is in order; between streams nothing is, until you say so.
source = np.arange(4096, dtype=np.int32)
x = upload.clone_htod(source)
arrived = upload.record_event()
compute.wait(arrived)  # what follows on `compute` comes after the copy; the host does not wait
y = compute.clone_dtod(x)

# fork() makes a stream that starts after this point; join() waits for another stream's end.
side = compute.fork()
z = side.alloc_zeros(4096, np.int32)
side.memcpy_dtod(y[1024:2048], z[:1024])
compute.join(side)
result = compute.clone_dtoh(z)
assert np.array_equal(result[:1024], source[1024:2048])
assert arrived.is_done

# A timed event, in milliseconds. On the virtual device the figure says nothing about a GPU.
start, end = ctx.new_event(timing=True), ctx.new_event(timing=True)
start.record(compute)
compute.memcpy_dtod(x, y)
end.record(compute)
end.synchronize()
assert end - start >= 0

# Handles go in and out by the protocol that other libraries use: __cuda_stream__, or the address.
same = ctx.external_stream(compute)
assert same.handle == compute.handle
version, handle = compute.__cuda_stream__()
assert (version, handle) == (0, compute.handle)

print(f"{ctx.name}: three streams in order; priorities {ctx.stream_priority_range}")
