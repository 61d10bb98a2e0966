"""Which entry of paged_decode_attention serves a shape: the plans are int8_kv's."""

from __future__ import annotations

from collections.abc import Collection

from pyferrum_kv.int8_kv import explain as _explain
from pyferrum_kv.int8_kv.plan import Budget, DecodeEntry, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.plan_general import plan_general
from pyferrum_kv.int8_kv.plan_tensor_core import tensor_core_entry

OPERATION = "paged_decode_attention"
APPEND = {"float16": "kv_cache_append", "bfloat16": "kv_cache_append_bf16"}

ENTRIES: tuple[DecodeEntry, ...] = (
    tensor_core_entry(64, "", 8, 2, OPERATION, element_bytes=2),
    tensor_core_entry(128, "", 8, 1, OPERATION, element_bytes=2),
    DecodeEntry(OPERATION, lambda shape: "", plan_general),
)
"""In order of preference; the last serves every shape."""


def explain(
    shape: DecodeShape,
    budget: Budget,
    *,
    available: Collection[str] | None = None,
    entry: str = "",
    num_splits: int = 0,
) -> DecodePlan:
    """Plan a decode launch over an fp16 or bf16 cache, as int8_kv.explain() does over INT8.

    available:   entries that the bundle has for the device; None: all that are known
    entry:       take this one (without _bf16) instead of choosing
    num_splits:  cut into this many instead of choosing
    """
    return _explain(
        shape,
        budget,
        available=available,
        entry=entry,
        num_splits=num_splits,
        entries=ENTRIES,
    )
