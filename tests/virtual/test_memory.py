"""The arena: what is allocated, what is initialised, what lies beside."""

from __future__ import annotations

import numpy as np
import pytest

from pyferrum_kv.virtual.memory import RED_ZONE, Memory, MemoryFault, OutOfDeviceMemory


def test_alloc_is_aligned_and_apart() -> None:
    memory = Memory(1 << 20)
    first, second = memory.alloc(1), memory.alloc(300)
    assert first % 256 == 0
    assert second % 256 == 0
    assert second - (first + 1) >= RED_ZONE
    assert [a.num_bytes for a in memory.live()] == [1, 300]
    assert memory.used_bytes == 301


def test_write_then_read_gives_the_bytes_back_and_poison_elsewhere() -> None:
    memory = Memory(1 << 20)
    address = memory.alloc(8)
    memory.write(address + 2, b"\x01\x02")
    assert memory.read(address, 8).tolist() == [0xA5, 0xA5, 1, 2, 0xA5, 0xA5, 0xA5, 0xA5]


def test_copy_carries_what_was_never_written() -> None:
    memory = Memory(1 << 20)
    src, dst = memory.alloc(4), memory.alloc(4)
    memory.write(src, b"\x07")
    memory.fill(dst, b"\xff", 4)
    memory.copy(dst, src, 4)
    assert memory.read(dst, 4).tolist() == [7, 0xA5, 0xA5, 0xA5]


@pytest.mark.parametrize("offset", [-1, 1, 100])
def test_out_of_bounds_names_the_allocation_missed(offset: int) -> None:
    memory = Memory(1 << 20)
    address = memory.alloc(64, label="k_pool")
    with pytest.raises(MemoryFault, match="k_pool of 64 bytes") as caught:
        memory.read(address + offset, 64)
    assert caught.value.kind == "illegal_address"


def test_use_after_free_is_told_from_out_of_bounds() -> None:
    memory = Memory(1 << 20)
    address = memory.alloc(64)
    memory.free(address)
    with pytest.raises(MemoryFault, match="into freed") as caught:
        memory.write(address, b"\0")
    assert caught.value.kind == "illegal_address"
    assert caught.value.report.kind == "use_after_free"
    with pytest.raises(MemoryFault):
        memory.free(address)


def test_quarantined_bytes_come_back_when_memory_runs_short() -> None:
    memory = Memory(64 << 10)
    for _ in range(50):
        memory.free(memory.alloc(20 << 10))
    whole = memory.alloc(60 << 10)
    assert memory.size_of(whole) == 60 << 10
    with pytest.raises(OutOfDeviceMemory, match="in use"):
        memory.alloc(8 << 10)


def test_gaps_join_again_in_any_order_of_freeing() -> None:
    rng = np.random.default_rng(5)
    memory = Memory(64 << 10)
    for _ in range(20):
        blocks = [memory.alloc(int(n)) for n in rng.integers(1, 3000, 12)]
        for block in rng.permutation(blocks):
            memory.free(int(block))
    memory.free(memory.alloc(63 << 10))
    assert memory.live() == []
