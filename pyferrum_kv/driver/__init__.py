"""The CUDA driver API with owners: contexts, streams, memory, modules, launches, graphs.

A file imports only what it makes: context -> stream, module -> memory, launch, graph.
"""

from pyferrum_kv.driver.api import Api, open_driver
from pyferrum_kv.driver.context import CudaContext
from pyferrum_kv.driver.device import device_count
from pyferrum_kv.driver.event import CudaEvent
from pyferrum_kv.driver.external import ExternalMemory, MappedBuffer
from pyferrum_kv.driver.frozen import FrozenLaunch
from pyferrum_kv.driver.function import CudaFunction
from pyferrum_kv.driver.graph import CudaGraph
from pyferrum_kv.driver.launch import LaunchBuilder
from pyferrum_kv.driver.launch_config import LaunchConfig
from pyferrum_kv.driver.lifetime import DeferredError
from pyferrum_kv.driver.memory import CudaView
from pyferrum_kv.driver.module import CudaModule
from pyferrum_kv.driver.pinned import PinnedSlice
from pyferrum_kv.driver.pool import MemoryPool
from pyferrum_kv.driver.prepared import PreparedLaunch
from pyferrum_kv.driver.slices import CudaSlice
from pyferrum_kv.driver.stream import CudaStream
from pyferrum_kv.driver.tensor_map import encode_tensor_map
from pyferrum_kv.driver.unified import UnifiedSlice

__all__ = [
    "Api",
    "CudaContext",
    "CudaEvent",
    "CudaFunction",
    "CudaGraph",
    "CudaModule",
    "CudaSlice",
    "CudaStream",
    "CudaView",
    "DeferredError",
    "ExternalMemory",
    "FrozenLaunch",
    "LaunchBuilder",
    "LaunchConfig",
    "MappedBuffer",
    "MemoryPool",
    "PinnedSlice",
    "PreparedLaunch",
    "UnifiedSlice",
    "device_count",
    "encode_tensor_map",
    "open_driver",
]
