"""Your own kernel: load PTX, look it up, launch it. A wrong argument never reaches the device."""

from pathlib import Path

import numpy as np

from pyferrum_kv import CudaContext, LaunchConfig
from pyferrum_kv.errors import ArgumentError

ctx = CudaContext.new(0)
stream = ctx.new_stream()

# axpy(float a, const float* x, float* y, int n): y = a * x + y. Text, bytes or a path will do;
# loading the same content again returns the same module.
module = ctx.load_module(Path(__file__).with_name("axpy.ptx"))
axpy = module.function("axpy")

n = 1000
x = np.linspace(-1, 1, n, dtype=np.float32)
y = np.ones(n, np.float32)
dx, dy = stream.clone_htod(x), stream.clone_htod(y)

config = LaunchConfig.for_num_elems(n, block=256)
stream.launch_builder(axpy).arg(2.0).arg(dx).arg(dy).arg(n).launch(config)
assert np.array_equal(stream.clone_dtoh(dy), 2 * x + y)

# PTX tells count, size and float-or-integer of each parameter, so a mix-up is an error here.
for wrong in [(dx, 2.0, dy, n), (2.0, dx, dy, 2.5), (2.0, dx, dy, 2**32), (2.0, dx, dy)]:
    try:
        axpy.prepare(config, *wrong, stream=stream)
    except ArgumentError as refused:
        print(refused)
    else:
        raise AssertionError(f"{wrong} was taken")
