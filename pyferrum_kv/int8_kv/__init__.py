"""INT8 paged KV cache: append, decode attention, merging, moving blocks, and the plans behind them.

launch_int8_paged_decode_attention and launch_int8_kv_cache_append are ferrum-kernels' launchers, on
the context's default stream; int8_kv_cache_append and paged_decode_attention_int8 take a stream, a
batch of ragged sequences, and options.
"""

from pyferrum_kv.int8_kv.append import int8_kv_cache_append
from pyferrum_kv.int8_kv.append_rotary import int8_kv_cache_append_rotary
from pyferrum_kv.int8_kv.blocks import copy_blocks, swap_blocks
from pyferrum_kv.int8_kv.debug import (
    check_block_pairs,
    check_block_table,
    check_positions,
    check_slot_mapping,
)
from pyferrum_kv.int8_kv.decode import paged_decode_attention_int8
from pyferrum_kv.int8_kv.explain import explain
from pyferrum_kv.int8_kv.launchers import (
    launch_int8_kv_cache_append,
    launch_int8_paged_decode_attention,
)
from pyferrum_kv.int8_kv.layout import KvLayout
from pyferrum_kv.int8_kv.merge import merge_attention_states
from pyferrum_kv.int8_kv.plan import Budget, DecodePlan, DecodeShape
from pyferrum_kv.int8_kv.pools import Int8KvPools
from pyferrum_kv.int8_kv.preload import preload
from pyferrum_kv.int8_kv.workspace import Workspace

__all__ = [
    "Budget",
    "DecodePlan",
    "DecodeShape",
    "Int8KvPools",
    "KvLayout",
    "Workspace",
    "check_block_pairs",
    "check_block_table",
    "check_positions",
    "check_slot_mapping",
    "copy_blocks",
    "explain",
    "int8_kv_cache_append",
    "int8_kv_cache_append_rotary",
    "launch_int8_kv_cache_append",
    "launch_int8_paged_decode_attention",
    "merge_attention_states",
    "paged_decode_attention_int8",
    "preload",
    "swap_blocks",
]
