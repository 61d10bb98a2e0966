"""A CUDA device on the CPU, behind the names of `cuda.bindings.driver`: for tests and teaching.

PTX is run in NumPy and sanitised while it runs; see docs/virtual.md for what that cannot show.

    drv = VirtualDriver()
    ctx = pyferrum_kv.CudaContext.new(0, driver=drv)
"""

from pyferrum_kv.virtual.device import VirtualDriver
from pyferrum_kv.virtual.launches import Launched
from pyferrum_kv.virtual.report import Report

__all__ = ["Launched", "Report", "VirtualDriver"]
