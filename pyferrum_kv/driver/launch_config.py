"""LaunchConfig: grid, CTA and shared memory of a launch, checked against function and device."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from pyferrum_kv.errors import ArgumentError

if TYPE_CHECKING:
    from pyferrum_kv.driver.api import Api
    from pyferrum_kv.driver.function import CudaFunction

Dim = tuple[int, int, int]
PORTABLE_CLUSTER = 8
"""CTAs that a cluster may have on every device that knows clusters; more is asked for by name."""


@dataclass(frozen=True)
class LaunchConfig:
    """How to launch. Dimensions may be given short: 128 is (128, 1, 1).

    cluster_dim    CTAs of a cluster, a divisor of grid_dim; compute capability 9.0 and later
    cooperative    the whole grid runs at once, and may synchronise programmatic   may start before
    the kernel ahead of it in the stream ends (programmatic dependent
                   launch); the kernel waits with griddepcontrol.wait. 9.0 and later
    """

    grid_dim: Dim
    block_dim: Dim
    shared_mem_bytes: int = 0
    cluster_dim: Dim | None = None
    cooperative: bool = False
    programmatic: bool = False

    def __post_init__(self) -> None:
        for name in ("grid_dim", "block_dim", "cluster_dim"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _dim(name, value))
        if isinstance(self.shared_mem_bytes, float) or self.shared_mem_bytes < 0:
            raise ArgumentError(
                f"LaunchConfig: shared_mem_bytes is {self.shared_mem_bytes}; wanted 0 or more bytes"
            )

    @classmethod
    def for_num_elems(cls, n: int, block: int = 1024) -> LaunchConfig:
        """One thread an element, at least one CTA."""
        if n < 0 or block < 1:
            raise ArgumentError(
                f"for_num_elems: n is {n}, block {block}; wanted n >= 0, block >= 1"
            )
        return cls((max(1, -(-n // block)), 1, 1), (block, 1, 1))

    def __str__(self) -> str:
        text = f"grid {self.grid_dim} block {self.block_dim}"
        if self.shared_mem_bytes:
            text += f" shared {self.shared_mem_bytes} bytes"
        return text + (f" cluster {self.cluster_dim}" if self.cluster_dim else "")


def _dim(name: str, value: Any) -> Dim:
    short = (value,) if isinstance(value, int) else tuple(value)
    if not 1 <= len(short) <= 3 or not all(isinstance(v, int) and v >= 1 for v in short):
        raise ArgumentError(f"LaunchConfig: {name} is {value!r}; wanted up to three integers >= 1")
    x, y, z = (*short, 1, 1)[:3]
    return x, y, z


def checked_config(function: CudaFunction, config: LaunchConfig) -> None:
    """Refuse what the launch would fail on; raise the function's shared memory limit where needed.

    A configuration that passed is remembered by the function, and not looked at again.
    """
    if config in function.checked_configs:
        return
    _check_dims(function, config)
    _check_shared(function, config)
    _check_features(function, config)
    if len(function.checked_configs) > 4096:  # a caller with ever new shapes
        function.checked_configs.clear()
    function.checked_configs.add(config)


def _refuse(function: CudaFunction, what: str, wanted: str) -> None:
    raise ArgumentError(f"{function.name}: {what}; wanted {wanted}")


def _check_dims(function: CudaFunction, config: LaunchConfig) -> None:
    attribute = function.context.attribute
    for kind, dims in (("GRID", config.grid_dim), ("BLOCK", config.block_dim)):
        for axis, size in zip("XYZ", dims, strict=True):
            most = attribute(f"MAX_{kind}_DIM_{axis}")
            if size > most:
                _refuse(function, f"{kind.lower()}_dim.{axis.lower()} is {size}", f"at most {most}")
    threads, most = prod(config.block_dim), function.max_threads_per_block
    if threads > most:
        _refuse(function, f"block_dim {config.block_dim} has {threads} threads", f"at most {most}")
    limits = function.signature.limits
    if limits.required_threads and config.block_dim != tuple(limits.required_threads):
        _refuse(function, f"block_dim is {config.block_dim}", f"exactly {limits.required_threads}")


def _check_shared(function: CudaFunction, config: LaunchConfig) -> None:
    wanted, limits = config.shared_mem_bytes, function.signature.limits
    most = function.context.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
    most -= function.shared_size_bytes
    if limits.max_dynamic_shared_bytes is not None:
        most = min(most, limits.max_dynamic_shared_bytes)
    if wanted > most:
        _refuse(function, f"shared_mem_bytes is {wanted}", f"at most {most}")
    if wanted > function.max_dynamic_shared_bytes:
        function.max_dynamic_shared_bytes = wanted


def _check_features(function: CudaFunction, config: LaunchConfig) -> None:
    capability = function.context.compute_capability
    here = "this is compute capability {}.{}".format(*capability)
    if config.programmatic and capability < (9, 0):
        _refuse(function, f"programmatic launch: {here}", "9.0 or later")
    if config.cluster_dim is not None:
        if capability < (9, 0):
            _refuse(function, f"cluster_dim is {config.cluster_dim}: {here}", "9.0 or later")
        if any(g % c for g, c in zip(config.grid_dim, config.cluster_dim, strict=True)):
            _refuse(
                function, f"grid_dim is {config.grid_dim}", f"multiples of {config.cluster_dim}"
            )
        if prod(config.cluster_dim) > PORTABLE_CLUSTER:
            function.set_attribute("NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)
    if config.cooperative:
        most = function.occupancy.max_cooperative_blocks(
            prod(config.block_dim), config.shared_mem_bytes
        )
        if prod(config.grid_dim) > most:
            what = f"cooperative grid_dim {config.grid_dim} has {prod(config.grid_dim)} CTAs"
            _refuse(function, what, f"at most {most}, all on the device at once")


def driver_config(api: Api, config: LaunchConfig, cu_stream: Any) -> Any:
    """The driver's own CUlaunchConfig."""
    raw = api.raw
    made = raw.CUlaunchConfig()
    made.gridDimX, made.gridDimY, made.gridDimZ = config.grid_dim
    made.blockDimX, made.blockDimY, made.blockDimZ = config.block_dim
    made.sharedMemBytes, made.hStream = config.shared_mem_bytes, cu_stream
    kinds, attributes = raw.CUlaunchAttributeID, []
    if config.cluster_dim is not None:
        cluster = raw.CUlaunchAttribute()
        cluster.id = kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        dim = cluster.value.clusterDim
        dim.x, dim.y, dim.z = config.cluster_dim
        attributes.append(cluster)
    if config.cooperative:
        cooperative = raw.CUlaunchAttribute()
        cooperative.id = kinds.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        cooperative.value.cooperative = 1
        attributes.append(cooperative)
    if config.programmatic:
        programmatic = raw.CUlaunchAttribute()
        programmatic.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        programmatic.value.programmaticStreamSerializationAllowed = 1
        attributes.append(programmatic)
    made.attrs, made.numAttrs = attributes, len(attributes)  # copies them
    return made
