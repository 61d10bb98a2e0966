"""The virtual device as a sanitiser: a length that is one too long, found with kernel and line.

On a GPU the same program may go unnoticed, spoil somebody else's memory, or end the context later.
This example always runs on the virtual device; what it finds is what it is about.
"""

from pathlib import Path

import numpy as np

from pyferrum_kv import CudaContext, LaunchConfig
from pyferrum_kv.errors import DriverError
from pyferrum_kv.virtual import VirtualDriver

driver = VirtualDriver(metrics=True)  # a device of its own, whatever PYFERRUM_KV_DRIVER says
ctx = CudaContext.new(0, driver=driver)
stream = ctx.new_stream()
axpy = ctx.load_module(Path(__file__).with_name("axpy.ptx")).function("axpy")
x, y = stream.clone_htod(np.ones(100, np.float32)), stream.alloc_zeros(100, np.float32)
config = LaunchConfig.for_num_elems(100, block=128)

# As it should be. What a launch moved is counted, line by line: exact facts, unlike its times.
stream.launch_builder(axpy).arg(2.0).arg(x).arg(y).arg(100).launch(config)
stream.synchronize()
assert not driver.reports
loads = [line for line in driver.launches[-1].facts.lines if line.num_bytes]
assert [line.num_bytes for line in loads] == [400, 400, 400]  # x and y read, y written
assert [line.sectors for line in loads] == [13, 13, 13]  # of 32 bytes: no sector is wasted

# n is 101: thread 100 reads past x. Signatures cannot see that; memory with borders can.
stream.launch_builder(axpy).arg(2.0).arg(x).arg(y).arg(101).launch(config)
try:
    stream.synchronize()
except DriverError as fault:
    print(fault)
else:
    raise AssertionError("the read past the end was not seen")

report = driver.reports[0]
assert report.kind == "illegal_address"
assert report.kernel == "axpy"
assert report.thread == (100, 0, 0)
print(report)

# As on hardware the fault is sticky: this context is lost, and says why.
assert ctx.state == "lost"
ctx.close()
