"""What the shipped kernels ask of memory, exactly: other numbers are another speed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers.decode import check
from helpers.kv_cache import make_cache, random_half

from pyferrum_kv import CudaContext
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, int8_kv_cache_append
from pyferrum_kv.virtual import VirtualDriver
from pyferrum_kv.virtual.metrics import LaunchFacts

SECTOR = 32


@pytest.fixture
def driver() -> VirtualDriver:
    return VirtualDriver(metrics=True)


@pytest.fixture
def ctx(driver: VirtualDriver) -> Iterator[CudaContext]:
    with CudaContext.new(0, driver=driver) as context:
        yield context


def decode_facts(
    driver: VirtualDriver, ctx: CudaContext, rng: np.random.Generator, head_dim: int
) -> LaunchFacts:
    cache = make_cache(rng, [96, 40], num_kv_heads=8, head_dim=head_dim)
    q = random_half(rng, (2, 32, head_dim), "float16")
    check(ctx.new_stream(), cache, q, entry=f"paged_decode_attention_int8_d{head_dim}")
    return driver.launches[-1].facts


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 192, 256])
def test_decode_reads_each_code_once_and_in_whole_sectors(
    driver: VirtualDriver, ctx: CudaContext, rng: np.random.Generator, head_dim: int
) -> None:
    facts = decode_facts(driver, ctx, rng, head_dim)
    codes = [line for line in facts.lines if "L1::no_allocate" in line.ptx_text]
    tokens = 96 + 48  # in tiles of 16
    assert sum(line.num_bytes for line in codes) == 2 * tokens * 8 * head_dim
    assert all(line.sectors * SECTOR == line.num_bytes for line in codes)


@pytest.mark.parametrize("head_dim", [32, 64, 80, 96, 128, 192, 256])
def test_decode_meets_no_bank_conflict_while_it_walks_the_tokens(
    driver: VirtualDriver, ctx: CudaContext, rng: np.random.Generator, head_dim: int
) -> None:
    """Only the last fold, once a piece, is allowed any."""
    facts = decode_facts(driver, ctx, rng, head_dim)
    conflicts = {line.cu_line.split(":")[0] for line in facts.lines if line.bank_conflicts}
    assert conflicts <= {"decode_finish.cuh"}


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_append_reads_and_writes_whole_sectors(
    driver: VirtualDriver, ctx: CudaContext, rng: np.random.Generator, head_dim: int
) -> None:
    layout, num_tokens = KvLayout(4, 16, 8, head_dim), 16
    stream = ctx.new_stream()
    k = stream.clone_htod(random_half(rng, (num_tokens, 8, head_dim), "float16").ravel())
    slots = stream.clone_htod(np.arange(num_tokens, dtype=np.int32))
    int8_kv_cache_append(stream, k, k, Int8KvPools.allocate(stream, layout), slots)
    stream.synchronize()
    facts = driver.launches[-1].facts
    values = num_tokens * 8 * head_dim
    halves = [line for line in facts.lines if line.num_bytes and "ld.global" in line.ptx_text]
    read = [line for line in halves if line.num_bytes >= values]
    assert sum(line.num_bytes for line in read) == 2 * 2 * values
    assert sum(line.sectors for line in read) * SECTOR == 2 * 2 * values
    stores = [line for line in facts.lines if "st.global" in line.ptx_text]
    codes = [line for line in stores if line.num_bytes > 2 * 2 * num_tokens * 8]
    assert sum(line.num_bytes for line in codes) == 2 * values
    assert sum(line.sectors for line in codes) * SECTOR == 2 * values
    assert facts.bank_conflicts == 0
