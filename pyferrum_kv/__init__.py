"""Load prebuilt PTX through the CUDA driver, and run INT8 paged-KV-cache kernels with it.

Importing this package needs no CUDA: the driver is opened by CudaContext.new(). The submodules
int8_kv, half_kv, reference, virtual and testing are imported by name.
"""

from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.driver import (
    CudaContext,
    CudaEvent,
    CudaFunction,
    CudaGraph,
    CudaModule,
    CudaSlice,
    CudaStream,
    CudaView,
    FrozenLaunch,
    LaunchBuilder,
    LaunchConfig,
    MemoryPool,
    PinnedSlice,
    PreparedLaunch,
    UnifiedSlice,
    device_count,
)
from pyferrum_kv.dtypes import bfloat16, from_bfloat16, to_bfloat16
from pyferrum_kv.errors import (
    ArgumentError,
    BuildError,
    BundleCorrupt,
    BundleError,
    BundleNotFound,
    CaptureError,
    ClosedError,
    CompileError,
    ContextLost,
    DeviceNotFound,
    DriverError,
    DriverNotFound,
    EntryNotFound,
    FerrumError,
    ForkedProcessError,
    ModuleLoadError,
    NoVariant,
    NvrtcNotFound,
    WrongContextError,
)
from pyferrum_kv.loader import PtxLoader

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BuildError",
    "BundleCorrupt",
    "BundleError",
    "BundleNotFound",
    "CaptureError",
    "ClosedError",
    "CompileError",
    "ContextLost",
    "CudaContext",
    "CudaEvent",
    "CudaFunction",
    "CudaGraph",
    "CudaModule",
    "CudaSlice",
    "CudaStream",
    "CudaView",
    "DeviceNotFound",
    "DriverError",
    "DriverNotFound",
    "EntryNotFound",
    "FerrumError",
    "ForkedProcessError",
    "FrozenLaunch",
    "LaunchBuilder",
    "LaunchConfig",
    "MemoryPool",
    "ModuleLoadError",
    "NoVariant",
    "NvrtcNotFound",
    "PinnedSlice",
    "PreparedLaunch",
    "PtxBundle",
    "PtxLoader",
    "UnifiedSlice",
    "WrongContextError",
    "bfloat16",
    "device_count",
    "from_bfloat16",
    "to_bfloat16",
]
