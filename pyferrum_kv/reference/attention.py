"""One decode step of attention over a paged KV cache, of INT8 or of fp16 or bf16, in float64.

Query token i of a sequence stands at position kv_len - q_len + i: its K and V are in the cache.
It sees the tokens t <= position, and with `window_left` >= 0 only t >= position - window_left.

    x[t] = softmax_scale * (q * k_channel_factors) . K[t]
    x[t] = logit_softcap * tanh(x[t] / logit_softcap)             where logit_softcap > 0
    x[t] = x[t] + alibi_slopes[h] * (t - position)                where given
    lse  = log(sum_t exp(x[t]) + exp(sinks[h]))                   the sink's term where given
    out  = sum_t exp(x[t] - lse) V[t]

A row that sees no token has out 0 and lse -inf, or with a sink lse = sinks[h].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyferrum_kv.reference.quantize import as_float64, dequantize

F64 = npt.NDArray[np.float64]


def paged_decode_attention_int8(
    q: npt.NDArray[Any],
    k_pool: npt.NDArray[np.int8],
    v_pool: npt.NDArray[np.int8],
    k_scales: npt.NDArray[np.float16],
    v_scales: npt.NDArray[np.float16],
    block_table: npt.NDArray[np.int32],
    kv_lens: npt.NDArray[np.int32],
    *,
    q_len: int = 1,
    softmax_scale: float | None = None,
    window_left: int = -1,
    logit_softcap: float = 0.0,
    sinks: npt.NDArray[np.float32] | None = None,
    alibi_slopes: npt.NDArray[np.float32] | None = None,
    k_channel_factors: npt.NDArray[np.float32] | None = None,
) -> tuple[F64, F64]:
    """Attend each query row to the tokens it sees.

    q:                   fp16, bf16  [batch_size * q_len, num_q_heads, head_dim]
    k_pool, v_pool:      int8        [num_blocks, block_size, num_kv_heads, head_dim]
    k_scales, v_scales:  float16     [num_blocks, block_size, num_kv_heads]
    block_table:         int32       [batch_size, max_blocks_per_seq], read up to kv_len
    kv_lens:             int32       [batch_size]
    sinks, alibi_slopes: float32     [num_q_heads]
    k_channel_factors:   float32     [num_kv_heads, head_dim]
    returns:             out [batch_size * q_len, num_q_heads, head_dim],
                         lse [batch_size * q_len, num_q_heads]
    """
    return _decode(
        q,
        (k_pool, v_pool),
        (k_scales, v_scales),
        block_table,
        kv_lens,
        q_len=q_len,
        softmax_scale=softmax_scale,
        window_left=window_left,
        logit_softcap=logit_softcap,
        sinks=sinks,
        alibi_slopes=alibi_slopes,
        k_channel_factors=k_channel_factors,
    )


def paged_decode_attention(
    q: npt.NDArray[Any],
    k_pool: npt.NDArray[Any],
    v_pool: npt.NDArray[Any],
    block_table: npt.NDArray[np.int32],
    kv_lens: npt.NDArray[np.int32],
    **options: Any,
) -> tuple[F64, F64]:
    """Attend each query row to the tokens it sees, in a cache that is not quantised.

    q:                   fp16, bf16  [batch_size * q_len, num_q_heads, head_dim]
    k_pool, v_pool:      fp16, bf16  [num_blocks, block_size, num_kv_heads, head_dim]
    block_table:         int32       [batch_size, max_blocks_per_seq], read up to kv_len
    kv_lens:             int32       [batch_size]
    options, returns:    those of paged_decode_attention_int8
    """
    return _decode(q, (k_pool, v_pool), (None, None), block_table, kv_lens, **options)


def _decode(
    q: npt.NDArray[Any],
    pools: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    scales: tuple[npt.NDArray[np.float16] | None, npt.NDArray[np.float16] | None],
    block_table: npt.NDArray[np.int32],
    kv_lens: npt.NDArray[np.int32],
    *,
    q_len: int = 1,
    softmax_scale: float | None = None,
    window_left: int = -1,
    logit_softcap: float = 0.0,
    sinks: npt.NDArray[np.float32] | None = None,
    alibi_slopes: npt.NDArray[np.float32] | None = None,
    k_channel_factors: npt.NDArray[np.float32] | None = None,
) -> tuple[F64, F64]:
    batch_size = len(kv_lens)
    num_q_heads, head_dim = q.shape[1:]
    num_kv_heads = pools[0].shape[2]
    assert q.shape[0] == batch_size * q_len
    assert num_q_heads % num_kv_heads == 0
    rows = as_float64(q)
    if k_channel_factors is not None:
        rows = rows * np.repeat(as_float64(k_channel_factors), num_q_heads // num_kv_heads, axis=0)
    out = np.zeros((batch_size * q_len, num_q_heads, head_dim))
    lse = np.full((batch_size * q_len, num_q_heads), -np.inf)
    for b, kv_len in enumerate(kv_lens):
        k, v = (
            gather_tokens(p, s, block_table[b], int(kv_len))
            for p, s in zip(pools, scales, strict=True)
        )
        for i in range(q_len):
            row = b * q_len + i
            position = int(kv_len) - q_len + i
            first = max(0, position - window_left) if window_left >= 0 else 0
            seen = slice(first, max(position + 1, first))
            out[row], lse[row] = attention(
                rows[row],
                k[seen],
                v[seen],
                softmax_scale=head_dim**-0.5 if softmax_scale is None else softmax_scale,
                logit_softcap=logit_softcap,
                sinks=sinks,
                bias=None if alibi_slopes is None else _alibi(alibi_slopes, seen, position),
            )
    return out, lse


def gather_tokens(
    pool: npt.NDArray[Any],
    scales: npt.NDArray[np.float16] | None,
    blocks: npt.NDArray[np.int32],
    kv_len: int,
) -> F64:
    """The first `kv_len` tokens of a sequence, dequantised: [kv_len, num_kv_heads, head_dim].

    scales: None where the pool is of fp16 or bf16
    """
    block_size = pool.shape[1]
    t = np.arange(kv_len)
    block = blocks[t // block_size]
    assert ((block >= 0) & (block < pool.shape[0])).all(), "a block number outside the pool"
    codes = pool[block, t % block_size]
    return as_float64(codes) if scales is None else dequantize(codes, scales[block, t % block_size])


def attention(
    q: npt.NDArray[Any],
    k: npt.NDArray[Any],
    v: npt.NDArray[Any],
    *,
    softmax_scale: float,
    logit_softcap: float = 0.0,
    sinks: npt.NDArray[np.float32] | None = None,
    bias: F64 | None = None,
) -> tuple[F64, F64]:
    """Attend one query token to K and V that lie in order.

    q:        [num_q_heads, head_dim]
    k, v:     [num_tokens, num_kv_heads, head_dim]
    bias:     [num_q_heads, num_tokens], added to the logits
    returns:  out [num_q_heads, head_dim], lse [num_q_heads]
    """
    num_kv_heads = k.shape[1]
    grouped = as_float64(q).reshape(num_kv_heads, -1, q.shape[1])
    x = softmax_scale * np.einsum("ghd,tgd->ght", grouped, as_float64(k))
    x = x.reshape(q.shape[0], len(k))
    if logit_softcap > 0:
        x = logit_softcap * np.tanh(x / logit_softcap)
    if bias is not None:
        x = x + bias
    joined = x if sinks is None else np.concatenate([x, as_float64(sinks)[:, None]], axis=1)
    if joined.shape[1] == 0:
        return np.zeros(q.shape), np.full(q.shape[0], -np.inf)
    m = joined.max(axis=1, keepdims=True)
    total = np.exp(joined - m).sum(axis=1, keepdims=True)
    p = (np.exp(x - m) / total).reshape(*grouped.shape[:2], len(k))
    out = np.einsum("ght,tgd->ghd", p, as_float64(v)).reshape(q.shape)
    return out, (m + np.log(total))[:, 0]


def merge_attention_states(
    partial_out: npt.NDArray[Any], partial_lse: npt.NDArray[Any]
) -> tuple[F64, F64]:
    """Merge attention over disjoint sets of tokens; a state with lse -inf weighs nothing.

    partial_out:  fp16, bf16, float  [num_states, ..., head_dim]
    partial_lse:  float              [num_states, ...]
    returns:      out [..., head_dim], lse [...]
    """
    lse = np.logaddexp.reduce(as_float64(partial_lse), axis=0)
    safe = np.where(np.isneginf(lse), 0.0, lse)
    weights = np.exp(as_float64(partial_lse) - safe)[..., None]
    rows = np.where(np.isneginf(partial_lse)[..., None], 0.0, as_float64(partial_out))
    out: F64 = (weights * rows).sum(axis=0)
    return out, lse


def _alibi(slopes: npt.NDArray[np.float32], seen: slice, position: int) -> F64:
    """Bias of the tokens seen: [num_q_heads, num_tokens]."""
    behind = np.arange(seen.start, seen.stop) - position
    bias: F64 = as_float64(slopes)[:, None] * behind
    return bias
