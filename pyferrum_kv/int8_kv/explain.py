"""Which decode entry serves a shape, and how it is launched: a pure function of sizes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv.plan import Budget, DecodeEntry, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_cluster import CLUSTER
from pyferrum_kv.int8_kv.plan_general import GENERAL
from pyferrum_kv.int8_kv.plan_tensor_core import TENSOR_CORE
from pyferrum_kv.int8_kv.plan_tma import TMA

ENTRIES: tuple[DecodeEntry, ...] = (*CLUSTER, *TMA, *TENSOR_CORE, GENERAL)
"""In order of preference; the last serves every shape."""


def explain(
    shape: DecodeShape,
    budget: Budget,
    *,
    available: Collection[str] | None = None,
    entry: str = "",
    num_splits: int = 0,
    entries: Sequence[DecodeEntry] = ENTRIES,
) -> DecodePlan:
    """Plan a decode launch.

    available:   entries that the bundle has for the device; None: all that are known
    entry:       take this one (without _bf16) instead of choosing
    num_splits:  cut into this many instead of choosing
    entries:     to choose among, in order of preference; the last is named for the operation

    >>> shape = DecodeShape(batch_size=1, num_q_heads=32, num_kv_heads=8, head_dim=128,
    ...                     block_size=16, max_kv_len=8192)
    >>> print(explain(shape, Budget(num_sms=132, workspace_floats=1 << 23, num_counters=1 << 16)))
    """
    passed_over: list[tuple[str, str]] = []
    for candidate in entries:
        name = candidate.entry(shape.dtype)
        if entry and candidate.stem != entry:
            why = f"{entry} was asked for"
        elif available is not None and name not in available:
            why = "the bundle has no such entry for this device"
        else:
            why = candidate.refuses(shape)
        if why:
            passed_over.append((name, why))
            continue
        plan = candidate.plan(name, shape, budget, num_splits)
        why = _over(plan, budget) or ("" if entry else plan.unfit)
        if why:
            passed_over.append((name, why))
            continue
        return replace(plan, passed_over=tuple(passed_over))
    tried = "; ".join(f"{name}: {why}" for name, why in passed_over)
    raise ArgumentError(f"{entries[-1].stem}: no entry serves {shape}; {tried}")


def _over(plan: DecodePlan, budget: Budget) -> str:
    """Why the plan does not fit the device or the workspace, or ""."""
    if plan.shared_mem_bytes > budget.shared_bytes:
        return (
            f"it takes {plan.shared_mem_bytes} bytes of shared memory a CTA and the device has"
            f" {budget.shared_bytes}"
        )
    if plan.workspace_floats > budget.workspace_floats:
        return (
            f"its states take {plan.workspace_floats} floats and the workspace has"
            f" {budget.workspace_floats}; give Workspace.allocate(stream, {plan.workspace_floats})"
        )
    if plan.num_counters > budget.num_counters:
        return (
            f"it takes {plan.num_counters} counters and the workspace has {budget.num_counters};"
            f" give Workspace.allocate(stream, num_counters={plan.num_counters})"
        )
    return ""
