"""Decode on a device, and compare with the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from helpers.kv_cache import Guarded, HostCache, assert_close

from pyferrum_kv import CudaStream, reference
from pyferrum_kv.dtypes import as_dtype
from pyferrum_kv.int8_kv import paged_decode_attention_int8

ENTRY = "paged_decode_attention_int8"
"""The general entry: the one that serves every shape, and the judge of the fast ones."""


class Cache(Protocol):
    """A paged cache on the host: HostCache of int8, HalfCache of fp16 and bf16."""

    block_table: np.ndarray
    kv_lens: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]: ...
    def to_device(self, stream: CudaStream) -> Any: ...


def decode(
    stream: CudaStream,
    cache: Cache,
    q: np.ndarray,
    *,
    q_len: int = 1,
    arrays: dict[str, np.ndarray] | None = None,
    call: Callable[..., None] = paged_decode_attention_int8,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """out and lse from the device."""
    num_q_heads = q.shape[1]
    dtype = as_dtype(q.dtype)
    out = Guarded(stream, q.size, dtype)
    lse = Guarded(stream, q.shape[0] * num_q_heads, np.float32)
    extra = {name: stream.clone_htod(a.ravel()) for name, a in (arrays or {}).items()}
    options.setdefault("entry", ENTRY)
    options.setdefault("max_kv_len", int(cache.kv_lens.max(initial=0)))
    memory = [stream.clone_htod(a.ravel()) for a in (q, cache.block_table, cache.kv_lens)]
    call(
        stream,
        memory[0],
        cache.to_device(stream),
        memory[1],
        memory[2],
        out.slice,
        num_q_heads=num_q_heads,
        q_len=q_len,
        lse=lse.slice,
        **extra,
        **options,
    )
    return out.read().reshape(q.shape), lse.read().reshape(q.shape[:2])


def check(
    stream: CudaStream,
    cache: Cache,
    q: np.ndarray,
    *,
    dtype: str = "float16",
    arrays: dict[str, np.ndarray] | None = None,
    reference_options: dict[str, Any] | None = None,
    call: Callable[..., None] = paged_decode_attention_int8,
    **options: Any,
) -> None:
    """Decode on the device and in the reference, and compare out and lse."""
    out, lse = decode(stream, cache, q, arrays=arrays, call=call, **options)
    wanted, wanted_lse = getattr(reference, call.__name__)(
        q,
        *cache.arrays,
        cache.block_table,
        cache.kv_lens,
        q_len=options.get("q_len", 1),
        **(reference_options or {}),
        **(arrays or {}),
    )
    assert_close(out, wanted, dtype)
    np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(wanted_lse))
    finite = np.isfinite(wanted_lse)
    np.testing.assert_allclose(lse[finite], wanted_lse[finite], atol=1e-3, rtol=1e-5)


def check_relative_error(
    stream: CudaStream, cache: HostCache, q: np.ndarray, **options: Any
) -> None:
    """Decode, and judge the error by the output's own size: relative L2 of at most 5e-4."""
    out, _ = decode(stream, cache, q, **options)
    wanted, _ = reference.paged_decode_attention_int8(
        q, *cache.arrays, cache.block_table, cache.kv_lens
    )
    # what fp16 itself loses on such an output is not the kernel's
    floor = np.linalg.norm(wanted.astype(np.float16) - wanted)
    error = np.linalg.norm(out.astype(np.float64) - wanted)
    assert error <= 5e-4 * np.linalg.norm(wanted) + floor


def check_alone_and_together(
    stream: CudaStream, cache: HostCache, q: np.ndarray, **options: Any
) -> None:
    """A deterministic decode gives each sequence the bits that it gives it alone."""
    together, lse = decode(stream, cache, q, deterministic=True, **options)
    for b in range(len(cache.kv_lens)):
        one = replace(
            cache,
            block_table=cache.block_table[b : b + 1],
            kv_lens=cache.kv_lens[b : b + 1],
        )
        alone, lse_alone = decode(stream, one, q[b : b + 1], deterministic=True, **options)
        np.testing.assert_array_equal(alone[0], together[b])
        np.testing.assert_array_equal(lse_alone[0], lse[b])
