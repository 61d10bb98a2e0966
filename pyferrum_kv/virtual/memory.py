"""Global memory of the virtual device: one arena, red zones, a state for each byte.

Every byte has a state: allocated, initialised, freed. Accesses are aligned and at most 16 bytes, so
one gather from `state`, viewed at the access size, judges a whole access. Allocations are
256-aligned and at least 256 bytes apart; a freed one waits in quarantine before its bytes are used
again. The first and the last bytes of the arena are never allocated, so an index clipped to the
arena meets the state 0 and needs no bounds check of its own.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.virtual.report import Report, ReportKind

Bytes = npt.NDArray[np.uint8]

BASE = 0x7F00_0000_0000  # the first address of device 0
ALIGNMENT = 256
RED_ZONE = 256
ALLOCATED, INITIALISED, FREED = 1, 2, 4  # bits of a byte's state
READY = ALLOCATED | INITIALISED
UNWRITTEN = 0xA5  # what the host reads where nothing was written

ACCESS_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    4: np.dtype(np.uint32),
    8: np.dtype(np.uint64),
    16: np.dtype(np.complex128),  # only moved, never computed with
}


class OutOfDeviceMemory(MemoryError):
    """No gap of the arena is large enough."""


class MemoryFault(Exception):
    """An access by the host side that no allocation allows; `kind` is hardware's word for it."""

    def __init__(self, report: Report) -> None:
        self.report = report
        freed = report.kind == "use_after_free"
        self.kind: ReportKind = "illegal_address" if freed else report.kind
        super().__init__(str(report))


@dataclass(frozen=True, slots=True)
class Allocation:
    """One allocation, live or freed."""

    address: int
    num_bytes: int
    label: str = ""
    number: int = 0  # the how many-th of its memory

    @property
    def end(self) -> int:
        return self.address + self.num_bytes

    def __str__(self) -> str:
        name = f" {self.label}" if self.label else ""
        return f"allocation {self.number}{name} of {self.num_bytes} bytes at {self.address:#x}"


class Memory:
    """The global memory of one virtual device.

    capacity_bytes: int     most bytes that can be live, red zones included
    sanitize:       bool    False: every allocated byte counts as initialised
    """

    def __init__(
        self, capacity_bytes: int = 256 << 20, sanitize: bool = True, *, base: int = BASE
    ) -> None:
        self.capacity_bytes = -(-capacity_bytes // ALIGNMENT) * ALIGNMENT
        self.sanitize, self.base = sanitize, base
        self.reports: list[Report] = []
        # np.zeros maps pages lazily: memory that no one touches costs nothing
        self.data: Bytes = np.zeros(self.capacity_bytes, np.uint8)
        self.state: Bytes = np.zeros(self.capacity_bytes, np.uint8)
        self.data_views = {n: self.data.view(t) for n, t in ACCESS_TYPES.items()}
        self.state_views = {n: self.state.view(t) for n, t in ACCESS_TYPES.items()}
        self._starts: list[int] = []  # addresses of live allocations, sorted
        self._live: dict[int, Allocation] = {}
        self._gaps: list[tuple[int, int]] = [(base, self.capacity_bytes - RED_ZONE)]
        self._quarantine: deque[Allocation] = deque()
        self._quarantined_bytes = 0
        self._quarantine_limit = self.capacity_bytes // 8
        self._count = 0
        self.used_bytes = 0

    # -------------------------------------------------------- allocation

    def alloc(self, num_bytes: int, *, label: str = "", init: bool = False) -> int:
        """Allocate; returns a 256-aligned address. `init`: count every byte as written."""
        if num_bytes <= 0:
            raise ValueError(f"alloc: num_bytes is {num_bytes}; wanted at least 1")
        start = self._take(_footprint(num_bytes))
        while start is None and self._quarantine:
            self._release()
            start = self._take(_footprint(num_bytes))
        if start is None:
            raise OutOfDeviceMemory(
                f"alloc: {num_bytes} bytes wanted; "
                f"{self.used_bytes} of {self.capacity_bytes} in use"
            )
        address = start + RED_ZONE
        self._count += 1
        self._live[address] = Allocation(address, num_bytes, label, self._count)
        insort(self._starts, address)
        self.used_bytes += num_bytes
        is_ready = init or not self.sanitize
        self.state[self._span(address, num_bytes)] = READY if is_ready else ALLOCATED
        return address

    def free(self, address: int) -> None:
        """Free an allocation; its bytes stay in quarantine, so that a late use is seen."""
        allocation = self._live.pop(address, None)
        if allocation is None:
            raise MemoryFault(self._missed("illegal_address", address, 0, "free"))
        self._starts.remove(address)
        self.used_bytes -= allocation.num_bytes
        self.state[self._span(address, allocation.num_bytes)] = FREED
        self._quarantine.append(allocation)
        self._quarantined_bytes += allocation.num_bytes
        while self._quarantined_bytes > self._quarantine_limit:
            self._release()

    def size_of(self, address: int) -> int:
        """Bytes of the live allocation that starts at `address`."""
        return self._live[address].num_bytes

    def find(self, address: int) -> Allocation | None:
        """The live allocation that holds `address`."""
        position = bisect_right(self._starts, address)
        if position == 0:
            return None
        allocation = self._live[self._starts[position - 1]]
        return allocation if address < allocation.end else None

    def live(self) -> list[Allocation]:
        """The live allocations, in order of address."""
        return [self._live[start] for start in self._starts]

    def _take(self, footprint: int) -> int | None:
        for i, (start, size) in enumerate(self._gaps):
            if size >= footprint:
                rest = size - footprint
                self._gaps[i : i + 1] = [(start + footprint, rest)] if rest else []
                return start
        return None

    def _release(self) -> None:
        """Give the oldest quarantined bytes back to the gaps."""
        old = self._quarantine.popleft()
        self._quarantined_bytes -= old.num_bytes
        self.state[self._span(old.address, old.num_bytes)] = 0
        start, size = old.address - RED_ZONE, _footprint(old.num_bytes)
        position = bisect_right(self._gaps, (start, 0))
        if position < len(self._gaps) and self._gaps[position][0] == start + size:
            size += self._gaps.pop(position)[1]
        if position and sum(self._gaps[position - 1]) == start:
            start, before = self._gaps.pop(position - 1)
            size, position = size + before, position - 1
        self._gaps.insert(position, (start, size))

    # ------------------------------------------------------- host access

    def read(self, address: int, num_bytes: int, *, what: str = "memcpy") -> Bytes:
        """uint8 [num_bytes]: a copy of the bytes; 0xA5 where nothing was written."""
        span = self.check(address, num_bytes, what=what)
        data: Bytes = self.data[span].copy()
        if self.sanitize:
            unwritten = (self.state[span] & INITIALISED) == 0
            if unwritten.any():
                data[unwritten] = UNWRITTEN
        return data

    def write(
        self, address: int, data: bytes | bytearray | memoryview | Bytes, *, what: str = "memcpy"
    ) -> None:
        """Store bytes, which become initialised."""
        source = np.frombuffer(data, np.uint8)
        span = self.check(address, source.size, what=what)
        self.data[span] = source
        self.state[span] = READY

    def fill(self, address: int, pattern: bytes, count: int, *, what: str = "memset") -> None:
        """Store `pattern` `count` times in a row."""
        span = self.check(address, len(pattern) * count, what=what)
        self.data[span].reshape(count, len(pattern))[:] = np.frombuffer(pattern, np.uint8)
        self.state[span] = READY

    def copy(self, dst: int, src: int, num_bytes: int, *, what: str = "memcpy") -> None:
        """Copy within this memory; what was unwritten at the source is so at the destination."""
        self.copy_from(self, dst, src, num_bytes, what=what)

    def copy_from(
        self, source: Memory, dst: int, src: int, num_bytes: int, *, what: str = "memcpy"
    ) -> None:
        """Copy from another device's memory, or from this one."""
        src_span = source.check(src, num_bytes, what=what + " source")
        dst_span = self.check(dst, num_bytes, what=what)
        self.data[dst_span] = source.data[src_span]
        self.state[dst_span] = source.state[src_span] if self.sanitize else READY

    def check(self, address: int, num_bytes: int, *, what: str) -> slice:
        """The arena's slice for these bytes; MemoryFault unless one live allocation holds them."""
        if num_bytes == 0:
            return slice(0, 0)
        allocation = self.find(address)
        if allocation is None or num_bytes < 0 or address + num_bytes > allocation.end:
            raise MemoryFault(self._missed("illegal_address", address, num_bytes, what))
        return self._span(address, num_bytes)

    # ---------------------------------------------------------- messages

    def describe(self, address: int) -> str:
        """Where an address lies, in words: inside, past or before the nearest allocation."""
        inside = self.find(address)
        if inside:
            return f"{address - inside.address} bytes into {inside}"
        for freed in reversed(self._quarantine):
            if freed.address <= address < freed.end:
                return f"{address - freed.address} bytes into freed {freed}"
        position = bisect_right(self._starts, address)
        near: list[tuple[int, str]] = []
        if position:
            below = self._live[self._starts[position - 1]]
            near.append((address - below.end, f"{address - below.end} bytes past {below}"))
        if position < len(self._starts):
            above = self._live[self._starts[position]]
            gap = above.address - address
            near.append((gap, f"{gap} bytes before {above}"))
        return min(near)[1] if near else "no allocation is live"

    def is_freed(self, address: int) -> bool:
        """Whether the address lies in an allocation that was freed not long ago."""
        offset = address - self.base
        return 0 <= offset < self.capacity_bytes and bool(self.state[offset] & FREED)

    def _missed(self, kind: ReportKind, address: int, num_bytes: int, what: str) -> Report:
        if self.is_freed(address):
            kind = "use_after_free"
        detail = f"{what} of {num_bytes} bytes at {address:#x}"
        return Report(kind, detail, other=self.describe(address))

    def _span(self, address: int, num_bytes: int) -> slice:
        offset = address - self.base
        return slice(offset, offset + num_bytes)


def _footprint(num_bytes: int) -> int:
    """Bytes that an allocation takes: a red zone, then itself up to the next 256."""
    return RED_ZONE + -(-num_bytes // ALIGNMENT) * ALIGNMENT
