"""What the kernels over fp16 and bf16 ask of memory, exactly: other numbers are another speed."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.half_cache import check_half, make_half_cache
from helpers.kv_cache import random_half

from pyferrum_kv import CudaContext
from pyferrum_kv.half_kv import HalfKvPools, kv_cache_append
from pyferrum_kv.int8_kv import KvLayout
from pyferrum_kv.virtual import VirtualDriver

SECTOR = 32


@pytest.mark.parametrize("head_dim", [64, 128])
def test_decode_reads_each_element_once_in_whole_sectors_without_bank_conflicts(
    rng: np.random.Generator, head_dim: int
) -> None:
    driver = VirtualDriver(metrics=True)
    cache = make_half_cache(rng, [96, 40], num_kv_heads=8, head_dim=head_dim)
    q = random_half(rng, (2, 32, head_dim), "float16")
    with CudaContext.new(0, driver=driver) as ctx:
        entry = f"paged_decode_attention_d{head_dim}"
        check_half(ctx.new_stream(), cache, q, entry=entry)
    facts = driver.launches[-1].facts
    elements = [line for line in facts.lines if "L1::no_allocate" in line.ptx_text]
    tokens = 96 + 48  # in tiles of 16
    assert sum(line.num_bytes for line in elements) == 2 * tokens * 8 * head_dim * 2
    assert all(line.sectors * SECTOR == line.num_bytes for line in elements)
    conflicts = {line.cu_line.split(":")[0] for line in facts.lines if line.bank_conflicts}
    assert conflicts <= {"decode_finish.cuh"}


@pytest.mark.parametrize("head_dim", [24, 128])
def test_append_reads_and_writes_each_element_once(rng: np.random.Generator, head_dim: int) -> None:
    driver, layout = VirtualDriver(metrics=True), KvLayout(4, 16, 8, head_dim)
    with CudaContext.new(0, driver=driver) as ctx:
        stream = ctx.new_stream()
        k = stream.clone_htod(random_half(rng, (16, 8, head_dim), "float16").ravel())
        slots = stream.clone_htod(np.arange(16, dtype=np.int32))
        kv_cache_append(stream, k, k, HalfKvPools.allocate(stream, layout), slots)
        stream.synchronize()
    num_bytes = 2 * 16 * 8 * head_dim * 2
    for kind in ("ld.global", "st.global"):
        lines = [line for line in driver.launches[-1].facts.lines if kind in line.ptx_text]
        vectors = [line for line in lines if "v4" in line.ptx_text]
        assert sum(line.num_bytes for line in vectors) == num_bytes
        assert sum(line.sectors for line in vectors) * SECTOR == num_bytes
