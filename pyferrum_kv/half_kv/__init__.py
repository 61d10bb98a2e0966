"""Paged KV cache of fp16 or bf16: append and decode attention, the twins of int8_kv's.

The same kernels over a cache that is not quantised, so that what INT8 gains in time and costs in
accuracy can be measured inside one library. KvLayout, Workspace, Budget and DecodeShape are
int8_kv's.
"""

from pyferrum_kv.half_kv.append import kv_cache_append
from pyferrum_kv.half_kv.decode import paged_decode_attention
from pyferrum_kv.half_kv.entries import explain
from pyferrum_kv.half_kv.pools import HalfKvPools
from pyferrum_kv.half_kv.preload import preload

__all__ = [
    "HalfKvPools",
    "explain",
    "kv_cache_append",
    "paged_decode_attention",
    "preload",
]
