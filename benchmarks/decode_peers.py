"""Whom paged_decode_attention_int8 is held against: prepare(memory, shape) of each.

    SDPA fp16         torch's scaled_dot_product_attention over contiguous K and V
    FlashInfer fp16   BatchDecodeWithPagedKVCacheWrapper in its CUDA-graph mode, with tensor cores
    FlashInfer fp8    and with CUDA cores; the faster of the two counts
    XQA fp8           flashinfer.xqa, one scale for the whole cache

"fp16" is the dtype of q, which may be bfloat16. All are called as their documents say; tables are
in random order, and call i has a cache of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from benchmarks.decode_ours import block_table
from benchmarks.decode_peers_build import Absent, compiled, flashinfer_spec, xqa_spec
from benchmarks.decode_shapes import Shape
from benchmarks.decode_torch import Prepared, TorchMemory

XQA_SEMAPHORE_BYTES = 8 << 20


def sdpa(memory: TorchMemory, shape: Shape) -> Prepared:
    """torch over contiguous K and V."""
    if len(set(shape.kv_lens)) > 1 or shape.window_left >= 0 or shape.lse:
        raise Absent("SDPA decodes equal lengths, without window and lse")
    torch = memory.torch
    q = memory.q(shape)
    layout = (len(shape.kv_lens), shape.num_kv_heads, shape.kv_lens[0], shape.head_dim)
    kv = memory.caches(q.dtype, shape, layout)
    rows = q.unsqueeze(2)
    out: list[Any] = []

    def call(index: int) -> None:
        k, v = kv[index]
        attend = torch.nn.functional.scaled_dot_product_attention
        out[:] = [attend(rows, k, v, enable_gqa=shape.group > 1)]

    k, v = kv[0]
    return Prepared(call, lambda: out[0].squeeze(2), q, k[0, 0], v[0, 0], len(kv))


def flashinfer(memory: TorchMemory, shape: Shape, kv: str, tensor_cores: bool) -> Prepared:
    """FlashInfer's wrapper, planned once: the caches of all calls have one table."""
    compiled(flashinfer_spec(shape, kv, tensor_cores))
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    torch = memory.torch
    q = memory.q(shape)
    caches = memory.paged(q.dtype if kv == "fp16" else torch.float8_e4m3fn, shape)
    table = block_table(shape)
    rows = [torch.tensor(row[:n]) for row, n in zip(table, shape.blocks, strict=True)]
    indices = torch.cat(rows).to(memory.device)
    indptr = torch.tensor([0, *shape.blocks], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    last = [(n - 1) % shape.block_size + 1 for n in shape.kv_lens]
    last_page_len = torch.tensor(last, dtype=torch.int32)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(
        memory.workspace(),
        "NHD",
        use_cuda_graph=True,
        use_tensor_cores=tensor_cores,
        paged_kv_indptr_buffer=torch.empty_like(indptr, device=memory.device),
        paged_kv_indices_buffer=torch.empty_like(indices),
        paged_kv_last_page_len_buffer=torch.empty_like(last_page_len, device=memory.device),
        backend="fa2" if tensor_cores else "auto",
    )
    wrapper.plan(
        indptr,
        indices,
        last_page_len,
        shape.num_q_heads,
        shape.num_kv_heads,
        shape.head_dim,
        shape.block_size,
        window_left=shape.window_left,
        q_data_type=q.dtype,
        kv_data_type=caches.dtype,
    )
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=memory.device) if shape.lse else None
    pairs = [(cache[0], cache[1]) for cache in caches]

    def call(index: int) -> None:
        wrapper.run(q, pairs[index], out=out, lse=lse, return_lse=shape.lse)

    return Prepared(call, lambda: out, q, *_first(memory, caches, table, shape), len(caches))


def xqa(memory: TorchMemory, shape: Shape) -> Prepared:
    """XQA with an fp8 cache."""
    compiled(xqa_spec(shape))
    # its library leaves the driver's functions to be found among what the process has loaded
    ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    from flashinfer.xqa import xqa as run_xqa

    torch = memory.torch
    q = memory.q(shape)
    caches = memory.paged(torch.float8_e4m3fn, shape)
    table = block_table(shape)
    page_table = torch.tensor(table, device=memory.device)
    lens = torch.tensor(shape.kv_lens, dtype=torch.int32, device=memory.device)
    seq_lens = lens.view(torch.uint32).unsqueeze(1)
    rows, out = q.unsqueeze(1), torch.empty_like(q).unsqueeze(1)
    scratch = memory.workspace()
    semaphores = torch.zeros(XQA_SEMAPHORE_BYTES // 4, dtype=torch.int32, device=memory.device)
    semaphores = semaphores.view(torch.uint32)
    pairs = [(cache[0], cache[1]) for cache in caches]

    def call(index: int) -> None:
        run_xqa(
            rows,
            *pairs[index],
            page_table,
            seq_lens,
            out,
            scratch,
            semaphores,
            shape.num_kv_heads,
            shape.block_size,
            sliding_win_size=shape.window_left + 1,
        )

    return Prepared(
        call, lambda: out.squeeze(1), q, *_first(memory, caches, table, shape), len(caches)
    )


def _first(memory: TorchMemory, caches: Any, table: Any, shape: Shape) -> tuple[Any, Any]:
    """K and V of sequence 0 and KV head 0 in the first cache, gathered through the table."""
    torch = memory.torch
    blocks = torch.tensor(table[0, : shape.blocks[0]], device=memory.device).long()

    def gathered(part: Any) -> Any:
        raw = part.view(torch.uint8 if part.element_size() == 1 else torch.int16)
        rows = raw[blocks, :, 0].reshape(-1, shape.head_dim)[: shape.kv_lens[0]]
        return rows.view(part.dtype)

    return gathered(caches[0, 0]), gathered(caches[0, 1])


# A peer is timed in all of its ways; the fastest counts.
WAYS: dict[str, dict[str, Callable[[TorchMemory, Shape], Prepared]]] = {
    "SDPA fp16": {"SDPA fp16": sdpa},
    "FlashInfer fp16": {
        "FlashInfer fp16, tensor cores": lambda m, s: flashinfer(m, s, "fp16", True),
        "FlashInfer fp16, CUDA cores": lambda m, s: flashinfer(m, s, "fp16", False),
    },
    "FlashInfer fp8": {
        "FlashInfer fp8, tensor cores": lambda m, s: flashinfer(m, s, "fp8", True),
        "FlashInfer fp8, CUDA cores": lambda m, s: flashinfer(m, s, "fp8", False),
    },
    "XQA fp8": {"XQA fp8": xqa},
}
