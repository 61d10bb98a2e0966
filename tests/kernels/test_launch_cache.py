"""Prepared launches are kept by what was asked; strides in a list are as good as in a tuple."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kv_cache import random_half

from pyferrum_kv import CudaSlice, CudaStream, half_kv, int8_kv
from pyferrum_kv.int8_kv.launch_cache import launches_of

LAYOUT = int8_kv.KvLayout(num_blocks=2, block_size=16, num_kv_heads=2, head_dim=64)
STRIDES = (128, 64)


@pytest.fixture
def rows(stream: CudaStream, rng: np.random.Generator) -> CudaSlice:
    return stream.clone_htod(random_half(rng, (3, 2, 64), "float16").ravel())


@pytest.fixture
def slots(stream: CudaStream) -> CudaSlice:
    return stream.clone_htod(np.arange(3, dtype=np.int32))


def test_appends_take_strides_in_a_list(
    stream: CudaStream, rows: CudaSlice, slots: CudaSlice
) -> None:
    cos_sin = stream.clone_htod(np.ones((3, 64), np.float32).ravel())
    for strides, num_launches in ((list(STRIDES), 0), (STRIDES, 3), (list(STRIDES), 3)):
        pools = int8_kv.Int8KvPools.allocate(stream, LAYOUT)
        halves = half_kv.HalfKvPools.allocate(stream, LAYOUT, np.float16)
        int8_kv.int8_kv_cache_append(stream, rows, rows, pools, slots, k_strides=strides)
        codes = stream.clone_dtoh(pools.k_pool)
        int8_kv.int8_kv_cache_append_rotary(
            stream, rows, rows, pools, slots, slots, cos_sin, k_strides=strides
        )
        half_kv.kv_cache_append(stream, rows, rows, halves, slots, k_strides=strides)
        assert len(launches_of(stream)) == num_launches
        assert codes[:384].any()
        np.testing.assert_array_equal(
            stream.clone_dtoh(halves.k_pool)[:384], stream.clone_dtoh(rows)
        )


def test_decodes_take_strides_in_a_list(
    stream: CudaStream, rows: CudaSlice, slots: CudaSlice
) -> None:
    pools = int8_kv.Int8KvPools.allocate(stream, LAYOUT)
    halves = half_kv.HalfKvPools.allocate(stream, LAYOUT, np.float16)
    table, kv_lens = stream.clone_htod(np.int32([0])), stream.clone_htod(np.int32([3]))
    int8_kv.int8_kv_cache_append(stream, rows, rows, pools, slots)
    half_kv.kv_cache_append(stream, rows, rows, halves, slots)
    before = len(launches_of(stream))
    for decode, held in (
        (int8_kv.paged_decode_attention_int8, pools),
        (half_kv.paged_decode_attention, halves),
    ):
        outs = [stream.alloc_zeros(128, np.float16) for _ in "lt"]
        for out, strides in zip(outs, (list(STRIDES), STRIDES), strict=True):
            decode(
                stream, rows, held, table, kv_lens, out,
                num_q_heads=2, max_kv_len=3, q_strides=strides,
            )  # fmt: skip
        first, second = (stream.clone_dtoh(out) for out in outs)
        assert first.any()
        np.testing.assert_array_equal(first, second)
    assert len(launches_of(stream)) == before + 2
