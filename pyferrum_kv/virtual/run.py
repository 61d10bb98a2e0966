"""Run a kernel: its grid in chunks of lanes, then the comparison of what its CTAs touched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyferrum_kv.virtual.compiled import compiled
from pyferrum_kv.virtual.cta_races import CtaRaces
from pyferrum_kv.virtual.executor import Executor
from pyferrum_kv.virtual.executor_base import KernelFault, Launch, Parameters
from pyferrum_kv.virtual.lanes import WARP, Dim, Lanes
from pyferrum_kv.virtual.memory import Memory
from pyferrum_kv.virtual.metrics import Counters, LaunchFacts, LineFacts
from pyferrum_kv.virtual.program import Kernel

__all__ = ["DEFAULT_BUDGET", "KernelFault", "LaunchFacts", "LineFacts", "launch"]

DEFAULT_BUDGET = 4_000_000
"""Instructions, once for all lanes that run them together, until a launch counts as hung."""
LANES_PER_CHUNK = 8192
NUM_SMS = 132


def launch(
    kernel: Kernel,
    grid: Dim,
    block: Dim,
    dynamic_shared_bytes: int,
    params: bytes,
    memory: Memory,
    globals: Mapping[str, int],
    *,
    sanitize: bool = True,
    budget: int = DEFAULT_BUDGET,
    lanes_per_chunk: int = LANES_PER_CHUNK,
    metrics: bool = False,
    seed: int = 0,
) -> LaunchFacts:
    """Run every CTA to its end.

    params: the parameter block, laid out as the signature says
    globals: addresses of the program's .global and .const variables
    metrics: count bytes, sectors and bank passes too
    seed: 0 runs the CTAs in order; another number shuffles them
    """
    code = compiled(kernel)
    facts = LaunchFacts(kernel.name, grid, block, Counters(kernel, metrics))
    num_ctas = grid[0] * grid[1] * grid[2]
    order = np.arange(num_ctas)
    if seed:
        order = np.random.default_rng(seed).permutation(num_ctas)
    state = Launch(
        kernel=kernel,
        grid=grid,
        block=block,
        shared_bytes=kernel.shared_bytes + dynamic_shared_bytes,
        dynamic_shared_bytes=dynamic_shared_bytes,
        parameters=Parameters(params),
        globals={name: np.uint64(address) for name, address in globals.items()},
        memory=memory,
        sanitize=sanitize,
        budget=budget,
        granule_bytes=code.granule_bytes,
        counters=facts.counters,
        races=CtaRaces(memory) if sanitize else None,
        reports=facts.reports,
    )
    padded = -(-block[0] * block[1] * block[2] // WARP) * WARP
    per_chunk = max(1, lanes_per_chunk // padded)
    clock = 0
    with np.errstate(all="ignore"):
        for first in range(0, num_ctas, per_chunk):
            lanes = Lanes(grid, block, first, min(per_chunk, num_ctas - first), order)
            _provide(lanes, state)
            executor = Executor(state, lanes, code)
            executor.clock = clock
            executor.run()
            executor.release()
            clock = executor.clock
        if state.races is not None:
            state.races.finish(num_ctas)
            facts.accesses = state.races.ranges()
    return facts


def _provide(lanes: Lanes, state: Launch) -> None:
    """Special registers that the launch decides."""
    u4 = np.uint32
    lanes.provide("dynamic_smem_size", u4(state.dynamic_shared_bytes))
    lanes.provide("total_smem_size", u4(state.shared_bytes))
    lanes.provide("smid", (lanes.ctas[lanes.slot] % NUM_SMS).astype(u4))
    lanes.provide("nsmid", u4(NUM_SMS))
    lanes.provide("gridid", np.uint64(1))
