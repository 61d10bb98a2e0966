"""A kernel launch: what was asked, whether the device allows it, and doing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from pyferrum_kv.virtual.machine import Machine
from pyferrum_kv.virtual.metrics import LaunchFacts
from pyferrum_kv.virtual.modules import Function
from pyferrum_kv.virtual.objects import Allocation
from pyferrum_kv.virtual.order import Access
from pyferrum_kv.virtual.run import launch
from pyferrum_kv.virtual.status import Refused

Dim = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """One launch as it was asked for. The arguments are fixed here, as on hardware."""

    function: Function
    grid: Dim
    block: Dim
    dynamic_shared_bytes: int
    params: bytes
    cooperative: bool = False
    cluster: Dim = (1, 1, 1)


@dataclass(frozen=True, slots=True)
class Launched:
    """A launch that ran, and what was counted: instructions, bytes, sectors, bank conflicts."""

    kernel: str
    grid: Dim
    block: Dim
    dynamic_shared_bytes: int
    facts: LaunchFacts


def check_limits(
    asked: KernelLaunch, attributes: dict[str, int], max_threads: int, max_dynamic: int
) -> None:
    """Refuse a grid, a CTA or an amount of shared memory that the device cannot have."""
    name = asked.function.name
    for kind, dim in (("GRID", asked.grid), ("BLOCK", asked.block)):
        for axis, extent in zip("XYZ", dim, strict=True):
            most = attributes[f"MAX_{kind}_DIM_{axis}"]
            if not 1 <= extent <= most:
                words = f"{kind.lower()} {axis.lower()} is {extent}; wanted 1 to {most}"
                raise Refused("INVALID_VALUE", f"{name}: {words}")
    threads = prod(asked.block)
    if threads > max_threads:
        raise Refused("INVALID_VALUE", f"{name}: {threads} threads; at most {max_threads}")
    required = asked.function.kernel.signature.limits.required_threads
    if required and asked.block != required:
        raise Refused("INVALID_VALUE", f"{name}: block {asked.block}; .reqntid is {required}")
    if asked.dynamic_shared_bytes > max_dynamic:
        raise Refused(
            "INVALID_VALUE",
            f"{name}: {asked.dynamic_shared_bytes} bytes of dynamic shared memory; at most "
            f"{max_dynamic} (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
        )
    if any(g % c for g, c in zip(asked.grid, asked.cluster, strict=True)):
        raise Refused(
            "INVALID_CLUSTER_SIZE",
            f"{name}: grid {asked.grid} is not a multiple of cluster {asked.cluster}",
        )


def host_visible_arguments(machine: Machine, asked: KernelLaunch) -> list[Allocation]:
    """Page-locked and managed allocations that an argument points into."""
    found = []
    for param in asked.function.kernel.signature.params:
        if param.size_bytes != 8:
            continue
        address = int.from_bytes(asked.params[param.offset : param.offset + 8], "little")
        for device in machine.devices:
            memory = device.memory.find(address)
            taken = device.allocations.get(memory.address) if memory else None
            if taken and taken.kind in ("pinned", "managed"):
                found.append(taken)
    return found


def perform(machine: Machine, asked: KernelLaunch) -> Sequence[Access]:
    """Run the kernel now; findings are reported, faults are raised."""
    function, context = asked.function, asked.function.module.context
    memory = context.device.memory
    addresses = {name: taken.address for name, taken in function.module.globals.items()}
    facts = launch(
        function.kernel,
        asked.grid,
        asked.block,
        asked.dynamic_shared_bytes,
        asked.params,
        memory,
        addresses,
        sanitize=memory.sanitize,
        budget=machine.budget,
        metrics=machine.metrics,
        seed=machine.seed,
    )
    machine.launches.append(
        Launched(function.name, asked.grid, asked.block, asked.dynamic_shared_bytes, facts)
    )
    for report in facts.reports:
        machine.report(context, report)
    return [Access(*bytes_) for bytes_ in facts.accesses]
