"""Atomics: lanes act one after the other, in the order of the lanes.

Where the addresses of the active lanes differ, or the order cannot show, whole arrays are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyferrum_kv.virtual.access_global import READY_ACCESS
from pyferrum_kv.virtual.async_copy import AsyncCopies
from pyferrum_kv.virtual.lanes import Active
from pyferrum_kv.virtual.numerics_half import half_binary

Lanes = Any
_UFUNCS: dict[str, Any] = {
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_SIZES = {"16": 2, "x2": 4, "32": 4, "64": 8}


def combine(action: str, t: str, old: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """The value that one atomic stores, of the dtype of `old`."""
    if action == "add":
        return _half_add(t, old, b) if "f16" in t else old + b
    if action == "exch":
        return b
    if action == "cas":
        return np.where(old == b, c, old)
    if action == "inc":
        return np.where(old >= b, old.dtype.type(0), old + old.dtype.type(1))
    if action == "dec":
        return np.where((old == 0) | (old > b), b, old - old.dtype.type(1))
    return _UFUNCS[action](old, b)


def _half_add(t: str, old: Lanes, b: Lanes) -> Lanes:
    if t != "f16":
        return half_binary("+", t, old, b, False, False)
    half = np.float16
    return half_binary("+", t, old.view(half), b.view(half), False, False).view(np.uint16)


def apply_in_order(data: Any, index: Any, b: Any, c: Any, action: str, t: str, wanted: bool) -> Any:
    """Act on data[index], lane by lane; returns the old values [lanes]."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    is_first = np.ones(index.size, bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    if is_first.all():
        old = data[index]
        data[index] = combine(action, t, old, b, c)
        return old
    if action == "add" and "f" not in t:
        return _add_in_order(data, ordered, order, is_first, b)
    if not wanted and action in _UFUNCS:
        _UFUNCS[action].at(data, index, b)
        return np.zeros(index.size, data.dtype)
    if not wanted and action == "add" and t in ("f32", "f64"):
        np.add.at(data, index, b)
        return np.zeros(index.size, data.dtype)
    old = np.empty(index.size, data.dtype)
    for lane in range(index.size):
        place = index[lane]
        old[lane] = data[place]
        third = c[lane] if c is not None else None
        data[place] = combine(action, t, old[lane], b[lane], third)
    return old


def _add_in_order(data: Any, ordered: Any, order: Any, is_first: Any, b: Any) -> Any:
    """Integer sums: what a lane sees is the start value plus the lanes before it."""
    terms = b[order]
    sums = np.cumsum(terms, dtype=data.dtype)
    before = sums - terms
    starts = np.flatnonzero(is_first)
    group = np.cumsum(is_first) - 1
    seen = data[ordered] + before - before[starts][group]
    last = np.append(starts[1:], ordered.size) - 1
    data[ordered[last]] = seen[last] + terms[last]
    old = np.empty_like(seen)
    old[order] = seen
    return old


class Atomics(AsyncCopies):
    """atom and red of global, shared and generic addresses."""

    def atom_global(
        self,
        active: Active,
        address: Any,
        b: Any,
        c: Any,
        action: str,
        t: str,
        order: str,
        wanted: bool,
        site: int,
    ) -> Any:
        """The old values, [rows]."""
        size = _SIZES[t[-2:]]
        self.check_readable(active, address, size, site)
        _, index = self._global_index(active, address, size, site)
        index = np.broadcast_to(index, (active.count,))
        b, c = active.each(b), None if c is None else active.each(c)
        data = self.memory.data_views[size].view(b.dtype)
        old = apply_in_order(data, index, b, c, action, t, wanted)
        self.memory.state_views[size][index] = READY_ACCESS[size]
        if self.races is not None:
            self.races.atomic(self, active, index, size, site, order)
        self.counters.global_access(active, index, size, site)
        return active.spread(old)

    def atom_shared(
        self,
        active: Active,
        address: Any,
        b: Any,
        c: Any,
        action: str,
        t: str,
        order: str,
        wanted: bool,
        site: int,
    ) -> Any:
        size = _SIZES[t[-2:]]
        index = self.shared_index(active, address, size, site)
        if self.shared_races is not None:
            self.check_written(index, active.lanes, size, site)
            self.shared_races.atomic(index, active.lanes, size, site)
            self.written[size][index] = READY_ACCESS[size]
        b, c = active.each(b), None if c is None else active.each(c)
        data = self.shared[size].view(b.dtype)
        old = apply_in_order(data, index, b, c, action, t, wanted)
        self.counters.shared_access(active, index, active.lanes, size, site, self.shared_stride)
        return active.spread(old)

    def atom_generic(
        self,
        active: Active,
        address: Any,
        b: Any,
        c: Any,
        action: str,
        t: str,
        order: str,
        wanted: bool,
        site: int,
    ) -> Any:
        whole = np.zeros(self.lanes.total, b.dtype)
        for space, part, at in self.by_window(active, address):
            act = self.atom_shared if space == "shared" else self.atom_global
            values = [self.rows_for(active, part, v) for v in (b, c)]
            found = act(part, at, values[0], values[1], action, t, order, wanted, site)
            self.from_part(active, part, found, whole)
        return active.gather(whole) if active.is_compact else whole
