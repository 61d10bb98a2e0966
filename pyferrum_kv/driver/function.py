"""CudaFunction: an entry of a module, its attributes, its occupancy, its prepared launches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock, Writer, writers_for
from pyferrum_kv.driver.codes import NOT_SUPPORTED
from pyferrum_kv.driver.launch_config import LaunchConfig, checked_config
from pyferrum_kv.driver.lifetime import Dependants
from pyferrum_kv.driver.occupancy import Occupancy
from pyferrum_kv.driver.once import OnceLauncher
from pyferrum_kv.driver.packer import Packer
from pyferrum_kv.driver.parameters import agreed
from pyferrum_kv.driver.prepared import PreparedLaunch
from pyferrum_kv.errors import ArgumentError, ClosedError, DriverError, DriverNotFound
from pyferrum_kv.signature import Signature

if TYPE_CHECKING:
    from pyferrum_kv.driver.module import CudaModule
    from pyferrum_kv.driver.stream import CudaStream


class CudaFunction:
    """An entry, by module.function(). Borrows: it lives with its module, and keeps that alive."""

    def __init__(
        self,
        module: CudaModule,
        handle: Any,
        name: str,
        known: Signature | None,
        told: Signature | None,
    ) -> None:
        self.module, self.name, self.context = module, name, module.context
        self._handle = handle
        self._signature = agreed(name, known, told)
        self._writers: tuple[Writer, ...] = ()
        self._packer: Packer | None = None
        if self._signature is not None:
            self._writers = writers_for(self.context, self._signature)
            self._packer = Packer(self.context, self._signature)
        self._attributes: dict[str, int] = {}
        self.checked_configs: set[LaunchConfig] = set()  # see launch_config.checked_config()
        self.dependants = Dependants()
        self.occupancy = Occupancy(self)
        self.once = OnceLauncher(self)
        self._load()

    def _load(self) -> None:
        """Have the code on the device now: the first launch may be inside a capture."""
        try:
            self.context.call("cuFuncLoad", self._handle, on=self.name)
        except DriverNotFound:
            pass  # before CUDA 12.4 the driver loads at the first launch
        except DriverError as error:
            if error.code != NOT_SUPPORTED:
                raise

    @property
    def signature(self) -> Signature:
        """Parameters and limits, from the manifest, the PTX or the driver, in that order."""
        if self._signature is None:
            raise ArgumentError(
                f"{self.name}: the image does not tell its parameters and this driver cannot;"
                " give load_module(..., signatures=)"
            )
        return self._signature

    @property
    def cu_function(self) -> Any:
        """The driver's CUfunction; ClosedError once the module is closed."""
        if self.module.is_closed:
            raise ClosedError(f"{self.name}: {self.module!r}")
        return self._handle

    @property
    def handle(self) -> int:
        return int(self.cu_function)

    # attributes

    def get_attribute(self, attribute: Any) -> int:
        """A CUfunction_attribute by short name ("NUM_REGS") or enum."""
        which = self.context.api.enum("CUfunction_attribute", "CU_FUNC_ATTRIBUTE_", attribute)
        on = f"{self.name}, {which.name}"
        return int(self.context.call("cuFuncGetAttribute", which, self.cu_function, on=on))

    def set_attribute(self, attribute: Any, value: int) -> None:
        which = self.context.api.enum("CUfunction_attribute", "CU_FUNC_ATTRIBUTE_", attribute)
        on = f"{self.name}, {which.name}, {value}"
        self.context.call("cuFuncSetAttribute", self.cu_function, which, value, on=on)
        self._attributes.clear()

    def _fact(self, attribute: str) -> int:
        value = self._attributes.get(attribute)
        if value is None:
            value = self._attributes[attribute] = self.get_attribute(attribute)
        return value

    @property
    def num_regs(self) -> int:
        return self._fact("NUM_REGS")

    @property
    def shared_size_bytes(self) -> int:
        """Static shared memory."""
        return self._fact("SHARED_SIZE_BYTES")

    @property
    def const_size_bytes(self) -> int:
        return self._fact("CONST_SIZE_BYTES")

    @property
    def local_size_bytes(self) -> int:
        """Local memory of a thread, spills included."""
        return self._fact("LOCAL_SIZE_BYTES")

    @property
    def max_threads_per_block(self) -> int:
        return self._fact("MAX_THREADS_PER_BLOCK")

    @property
    def ptx_version(self) -> int:
        """The virtual architecture it was compiled for: 80 is sm_80."""
        return self._fact("PTX_VERSION")

    @property
    def binary_version(self) -> int:
        """The architecture it runs as: 90 is sm_90."""
        return self._fact("BINARY_VERSION")

    @property
    def max_dynamic_shared_bytes(self) -> int:
        """Dynamic shared memory that a launch may ask for. Binding a launch raises it as needed."""
        return self._fact("MAX_DYNAMIC_SHARED_SIZE_BYTES")

    @max_dynamic_shared_bytes.setter
    def max_dynamic_shared_bytes(self, num_bytes: int) -> None:
        self.set_attribute("MAX_DYNAMIC_SHARED_SIZE_BYTES", num_bytes)

    def set_cache_config(self, config: Any) -> None:
        """Prefer "none", "shared", "l1" or "equal"."""
        which = self.context.api.enum("CUfunc_cache", "CU_FUNC_CACHE_PREFER_", config)
        self.context.call("cuFuncSetCacheConfig", self.cu_function, which, on=self.name)

    # launching

    def new_block(self) -> ArgumentBlock:
        """A parameter block with nothing in it yet."""
        return ArgumentBlock(self.context, self.signature, self._writers, self._packer)

    def bind(self, arguments: tuple[Any, ...]) -> ArgumentBlock:
        """Check the arguments against the signature, and pack them."""
        block = self.new_block()
        block.fill(arguments)
        return block

    def prepare(
        self,
        config: LaunchConfig,
        *arguments: Any,
        stream: CudaStream,
        keep_arguments: bool = True,
    ) -> PreparedLaunch:
        """Check everything once, and return a launch to replay.

        `keep_arguments=False`: the slices are not kept alive; once one is closed or dropped the
        launch is stale and says so. For caches keyed by slice tokens.
        """
        checked_config(self, config)
        return PreparedLaunch(self, config, self.bind(arguments), stream, keep_arguments)

    def __repr__(self) -> str:
        return f"<CudaFunction {self._signature or self.name}>"
