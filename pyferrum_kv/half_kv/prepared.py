"""Prepared launches, in the stream's one cache of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaStream


def held_launch(stream: CudaStream, key: tuple[Any, ...]) -> Any:
    """What keep() of int8_kv.launch_cache put under `key`, or None."""
    return stream.attachments.get("int8_kv", {}).get(key)
