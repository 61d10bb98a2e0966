"""What the kernels should compute, in NumPy and float64; shares nothing with them."""

from pyferrum_kv.reference.append import int8_kv_cache_append, kv_cache_append
from pyferrum_kv.reference.attention import (
    attention,
    gather_tokens,
    merge_attention_states,
    paged_decode_attention,
    paged_decode_attention_int8,
)
from pyferrum_kv.reference.quantize import dequantize, quantize

__all__ = [
    "attention",
    "dequantize",
    "gather_tokens",
    "int8_kv_cache_append",
    "kv_cache_append",
    "merge_attention_states",
    "paged_decode_attention",
    "paged_decode_attention_int8",
    "quantize",
]
