"""What the kernels should compute, in NumPy and float64; shares nothing with them."""

from pyferrum_kv.reference.append import int8_kv_cache_append, kv_cache_append
from pyferrum_kv.reference.attention import (
    attention,
    gather_tokens,
    merge_attention_states,
    paged_decode_attention,
    paged_decode_attention_int8,
)
from pyferrum_kv.reference.blocks import copy_blocks, swap_blocks
from pyferrum_kv.reference.quantize import dequantize, quantize
from pyferrum_kv.reference.rotary import rotary_embedding

__all__ = [
    "attention",
    "copy_blocks",
    "dequantize",
    "gather_tokens",
    "int8_kv_cache_append",
    "kv_cache_append",
    "merge_attention_states",
    "paged_decode_attention",
    "paged_decode_attention_int8",
    "quantize",
    "rotary_embedding",
    "swap_blocks",
]
