"""KvLayout: sizes and offsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv import ArgumentError
from pyferrum_kv.int8_kv import KvLayout

layouts = st.builds(
    KvLayout,
    num_blocks=st.integers(1, 6),
    block_size=st.integers(1, 7),
    num_kv_heads=st.integers(1, 4),
    head_dim=st.sampled_from([8, 16, 24]),
)


def test_a_token_of_8_heads_of_128_takes_130_bytes_for_256_of_fp16():
    layout = KvLayout(num_blocks=1, block_size=1, num_kv_heads=8, head_dim=128)
    assert layout.total_bytes == 2 * 8 * 130
    assert layout.fp16_bytes == 2 * 8 * 256


def test_offsets_pass_two_gib_without_wrapping():
    layout = KvLayout(num_blocks=262144, block_size=16, num_kv_heads=8, head_dim=128)
    assert layout.code_offset(layout.num_slots - 1, 7, 127) == 2**32 - 1


@given(layouts)
def test_codes_and_scales_fill_their_pools_one_to_one(layout):
    slots, heads = range(layout.num_slots), range(layout.num_kv_heads)
    codes = [
        layout.code_offset(s, h, d) for s in slots for h in heads for d in range(layout.head_dim)
    ]
    scales = [layout.scale_offset(s, h) for s in slots for h in heads]
    assert sorted(codes) == list(range(layout.num_codes))
    assert sorted(scales) == list(range(layout.num_scales))


@given(layouts, st.data())
def test_offsets_are_those_of_the_documented_shapes(layout, data):
    slot = data.draw(st.integers(0, layout.num_slots - 1))
    kv_head = data.draw(st.integers(0, layout.num_kv_heads - 1))
    shape = (layout.num_blocks, layout.block_size, layout.num_kv_heads)
    index = (slot // layout.block_size, slot % layout.block_size, kv_head)
    assert layout.scale_offset(slot, kv_head) == np.ravel_multi_index(index, shape)
    expected = np.ravel_multi_index((*index, 3), (*shape, layout.head_dim))
    assert layout.code_offset(slot, kv_head, 3) == expected


@given(layouts, st.integers(0, 64))
def test_blocks_for_tokens_are_just_enough(layout, num_tokens):
    blocks = layout.blocks_for(num_tokens)
    assert blocks * layout.block_size >= num_tokens
    assert (blocks - 1) * layout.block_size < max(num_tokens, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_blocks": 0}, "num_blocks is 0; wanted 1 to 2147483647"),
        ({"block_size": -1}, "block_size is -1; wanted 1 to"),
        ({"num_kv_heads": 1.5}, r"num_kv_heads is 1\.5; wanted an integer"),
        ({"head_dim": 20}, "head_dim is 20; wanted a multiple of 8 from 8 to 256"),
        ({"head_dim": 264}, "head_dim is 264; wanted 8 to 256"),
        ({"num_blocks": 2**28, "block_size": 8}, r"num_blocks \* block_size is 2147483648"),
    ],
)
def test_refuses_what_no_cache_can_be(changed, message):
    sizes = {"num_blocks": 4, "block_size": 16, "num_kv_heads": 2, "head_dim": 64, **changed}
    with pytest.raises(ArgumentError, match=f"KvLayout: {message}"):
        KvLayout(**sizes)
