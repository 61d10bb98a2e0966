"""What an event remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyferrum_kv.virtual.objects import Context
from pyferrum_kv.virtual.order import Work

if TYPE_CHECKING:
    from pyferrum_kv.virtual.capture import CapturedEvent

DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING


@dataclass(eq=False)
class Event:
    """A mark in a stream: `work` outside a capture, `captured` in one, neither at first."""

    handle: int
    context: Context
    flags: int
    work: Work | None = None
    captured: CapturedEvent | None = None
