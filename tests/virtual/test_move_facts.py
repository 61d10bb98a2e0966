"""What rotation and copies of blocks ask of memory, exactly: other numbers are another speed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers.kv_cache import random_half

from pyferrum_kv import CudaContext
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    copy_blocks,
    int8_kv_cache_append_rotary,
)
from pyferrum_kv.virtual import VirtualDriver

SECTOR = 32


@pytest.fixture
def driver() -> VirtualDriver:
    return VirtualDriver(metrics=True)


@pytest.fixture
def ctx(driver: VirtualDriver) -> Iterator[CudaContext]:
    with CudaContext.new(0, driver=driver) as context:
        yield context


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_a_full_rotation_reads_each_element_once(
    driver: VirtualDriver, ctx: CudaContext, rng: np.random.Generator, head_dim: int
) -> None:
    """Half-split pairs lie in the two chunks of one lane: nothing is read for a partner."""
    layout, num_tokens = KvLayout(4, 16, 8, head_dim), 16
    stream = ctx.new_stream()
    k = stream.clone_htod(random_half(rng, (num_tokens, 8, head_dim), "float16").ravel())
    q = stream.clone_htod(random_half(rng, (num_tokens, 16, head_dim), "float16").ravel())
    tokens = stream.clone_htod(np.arange(num_tokens, dtype=np.int32))
    cos_sin = stream.alloc_zeros(num_tokens * head_dim, np.float32)
    pools = Int8KvPools.allocate(stream, layout)
    int8_kv_cache_append_rotary(stream, k, k, pools, tokens, tokens, cos_sin, q=q, num_q_heads=16)
    stream.synchronize()
    lines = driver.launches[-1].facts.lines
    vectors = [
        line for line in lines if "ld.global" in line.ptx_text and ".v4.u32" in line.ptx_text
    ]
    assert sum(line.num_bytes for line in vectors) == 2 * num_tokens * (2 * 8 + 16) * head_dim
    assert all(line.sectors * SECTOR == line.num_bytes for line in vectors)


def test_copied_blocks_are_moved_in_whole_sectors(
    driver: VirtualDriver, ctx: CudaContext, rng: np.random.Generator
) -> None:
    layout = KvLayout(4, 16, 8, 128)
    stream = ctx.new_stream()
    pools = Int8KvPools.allocate(stream, layout)
    copy_blocks(stream, pools, stream.clone_htod(np.array([0, 2, 3, 1], np.int32)))
    stream.synchronize()
    vectors = [line for line in driver.launches[-1].facts.lines if ".v4.u32" in line.ptx_text]
    moved = 2 * (layout.total_bytes // layout.num_blocks)
    assert sum(line.num_bytes for line in vectors) == 2 * moved
    assert sum(line.sectors for line in vectors) * SECTOR == 2 * moved
