"""Prepared launches of one stream, found by what they were prepared for.

A key begins with the tokens of the slices. A token names one open object for ever and is 0 once
that is closed, and no key with a 0 is ever put in: so a key that is found stands for checks that
still hold, and nothing needs checking again but the numbers that change from call to call.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream
    from pyferrum_kv.int8_kv.checks import DeviceSlice

MAX_LAUNCHES = 4096
"""Enough for the layers of a model times the shapes in turn; the oldest goes first."""

Held = TypeVar("Held")
_KEEPING = threading.Lock()


LAUNCHES = "int8_kv"
"""stream.attachments[LAUNCHES] holds the stream's prepared launches, and is read without a lock."""


def launches_of(stream: CudaStream) -> Mapping[Any, Any]:
    """The stream's prepared launches so far. The hottest calls read the attachment themselves."""
    held: Mapping[Any, Any] = stream.attachments.get(LAUNCHES, {})
    return held


def token_of(given: DeviceSlice | None) -> int:
    """The token, or -1 for a null argument."""
    return -1 if given is None else given.token


def keep(stream: CudaStream, key: tuple[Any, ...] | None, launch: Held) -> Held:
    """Keep a launch; of two threads that prepared the same, the later one's stays.

    Without a key, or with one that has no hash (strides in a list), it is made anew at each call.
    """
    try:
        hash(key)
    except TypeError:
        key = None
    if key is None:
        return launch
    launches: dict[Any, Any] = stream.attachments.setdefault(LAUNCHES, {})
    with _KEEPING:
        launches[key] = launch
        if len(launches) > MAX_LAUNCHES:
            del launches[next(iter(launches))]
    return launch
