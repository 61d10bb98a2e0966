"""What driver calls make and name by handle: devices, contexts, streams, memory and its pools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyferrum_kv.virtual.attributes import Snapshot
from pyferrum_kv.virtual.memory import Memory
from pyferrum_kv.virtual.order import Lane
from pyferrum_kv.virtual.status import Refused

if TYPE_CHECKING:
    from pyferrum_kv.virtual.capture import Capture

LEGACY_STREAM, PER_THREAD_STREAM = 1, 2
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


@dataclass(eq=False)
class Stream:
    """A stream, or one of the two default ones."""

    handle: int
    context: Context
    flags: int
    priority: int
    lane: Lane
    capture: Capture | None = None
    closed: bool = False

    @property
    def blocking(self) -> bool:
        """Whether it and the legacy default stream wait for each other."""
        return not self.flags & NON_BLOCKING


@dataclass(eq=False)
class Pool:
    """A stream-ordered memory pool: what is freed stays reserved until the next synchronisation."""

    handle: int
    device: Device
    threshold: int = 0
    used: int = 0
    used_high: int = 0
    reserved: int = 0
    reserved_high: int = 0
    switches: dict[int, int] = field(default_factory=dict)
    closed: bool = False

    def took(self, num_bytes: int) -> None:
        self.used += num_bytes
        self.reserved = max(self.reserved, self.used)
        self.used_high = max(self.used_high, self.used)
        self.reserved_high = max(self.reserved_high, self.reserved)

    def trim(self, keep: int) -> None:
        self.reserved = max(self.used, min(self.reserved, keep))


@dataclass(eq=False)
class Allocation:
    """Bytes that a call handed out: on the device, or on the host and visible to the device."""

    address: int
    num_bytes: int
    context: Context | None
    kind: str  # "device", "managed", "pinned", "registered", "global"
    pool: Pool | None = None
    flags: int = 0
    owner: object | None = None  # what keeps host bytes alive
    freed: bool = False  # a stream-ordered free is on its way

    def covers(self, address: int) -> bool:
        return self.address <= address < self.address + self.num_bytes


@dataclass(eq=False)
class Device:
    ordinal: int
    memory: Memory
    snapshot: Snapshot
    name: str
    allocations: dict[int, Allocation] = field(default_factory=dict)
    primary: Context | None = None
    primary_count: int = 0
    primary_flags: int = 0
    default_pool: Pool | None = None
    pool: Pool | None = None

    @property
    def attributes(self) -> dict[str, int]:
        return self.snapshot.attributes


@dataclass(eq=False)
class Context:
    handle: int
    device: Device
    flags: int
    is_primary: bool
    fault: Refused | None = None
    destroyed: bool = False
    legacy: Stream | None = None
    per_thread: dict[int, Stream] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)
    owned: dict[int, Any] = field(default_factory=dict)  # handle -> event, module, ... made here
    peers: set[int] = field(default_factory=set)  # handles of contexts whose memory it may touch
    limits: dict[int, int] = field(default_factory=dict)
    cache_config: int = 0
