"""int8_kv_cache_append_rotary: bit for bit what rotating first and appending then gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.kv_cache import Guarded, random_half, widened

from pyferrum_kv import ArgumentError, ClosedError, CudaStream, bfloat16, reference, to_bfloat16
from pyferrum_kv.dtypes import as_dtype
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    int8_kv_cache_append,
    int8_kv_cache_append_rotary,
)

NAME = "int8_kv_cache_append_rotary"


def table(max_position: int, rotary_dim: int) -> np.ndarray:
    """Cosines and sines of a rotary embedding of base 10000."""
    angles = np.arange(max_position)[:, None] / 10000 ** (np.arange(0, rotary_dim, 2) / rotary_dim)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal in every bit; any NaN is as good as another."""
    both = [np.asarray(a).reshape(-1) for a in (got, wanted)]
    nans = [np.isnan(widened(a)) for a in both]
    np.testing.assert_array_equal(*nans)
    size = f"<u{both[0].dtype.itemsize}"
    np.testing.assert_array_equal(both[0].view(size)[~nans[0]], both[1].view(size)[~nans[1]])


@dataclass
class Tokens:
    """New tokens, and pools on both sides with the same contents."""

    layout: KvLayout
    k: np.ndarray
    v: np.ndarray
    q: np.ndarray
    slots: np.ndarray
    positions: np.ndarray
    cos_sin: np.ndarray

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        layout: KvLayout,
        num_tokens: int,
        num_q_heads: int,
        rotary_dim: int,
        dtype: str = "float16",
    ) -> Tokens:
        kv_shape = (num_tokens, layout.num_kv_heads, layout.head_dim)
        q_shape = (num_tokens, num_q_heads, layout.head_dim)
        return cls(
            layout,
            random_half(rng, kv_shape, dtype),
            random_half(rng, kv_shape, dtype),
            random_half(rng, q_shape, dtype),
            rng.permutation(layout.num_slots)[:num_tokens].astype(np.int32),
            rng.integers(0, 50, num_tokens, dtype=np.int32),
            table(50, rotary_dim),
        )

    def check(self, stream: CudaStream, *, interleaved: bool = False, in_place: bool = True):
        layout, dtype = self.layout, as_dtype(self.k.dtype)
        codes = [Guarded(stream, layout.num_codes, np.int8) for _ in "kv"]
        scales = [Guarded(stream, layout.num_scales, np.float16) for _ in "kv"]
        expected = [guarded.read().copy() for guarded in codes + scales]
        q = Guarded(stream, self.q.size, dtype)
        stream.memcpy_htod(self.q.ravel(), q.slice)
        out = q if in_place else Guarded(stream, self.q.size, dtype)
        memory = [
            stream.clone_htod(a.ravel())
            for a in (self.k, self.v, self.slots, self.positions, self.cos_sin)
        ]
        int8_kv_cache_append_rotary(
            stream,
            memory[0],
            memory[1],
            Int8KvPools(layout, *(guarded.slice for guarded in codes + scales)),
            *memory[2:],
            rotary_dim=self.cos_sin.shape[1],
            interleaved=interleaved,
            q=q.slice,
            q_out=None if in_place else out.slice,
            num_q_heads=self.q.shape[1],
        )
        rotated = [
            reference.rotary_embedding(x, self.positions, self.cos_sin, interleaved=interleaved)
            for x in (self.k, self.q)
        ]
        block = (layout.num_blocks, layout.block_size, layout.num_kv_heads)
        shaped = [
            array.reshape(*block, layout.head_dim) if i < 2 else array.reshape(block)
            for i, array in enumerate(expected)
        ]
        reference.int8_kv_cache_append(rotated[0], self.v, *shaped, self.slots)
        for guarded, wanted in zip(codes + scales, expected, strict=True):
            same_bits(guarded.read(), wanted)
        same_bits(out.read(), rotated[1])
        if not in_place:
            same_bits(q.read(), self.q)
        same_bits(stream.clone_dtoh(memory[0]), self.k)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("interleaved", [False, True], ids=["neox", "interleaved"])
@pytest.mark.parametrize(
    ("head_dim", "rotary_dim"),
    [(128, 128), (64, 64), (80, 80), (96, 96), (128, 64), (80, 32), (256, 256), (64, 20), (16, 2),
     (8, 8), (24, 12)],
)  # fmt: skip
def test_it_is_a_rotation_and_then_an_append(stream, rng, dtype, interleaved, head_dim, rotary_dim):
    layout = KvLayout(3, 5, 2, head_dim)
    tokens = Tokens.random(rng, layout, 7, 3, rotary_dim, dtype)
    tokens.check(stream, interleaved=interleaved, in_place=rotary_dim % 3 == 2)


def test_a_skipped_token_still_rotates_its_q(stream, rng):
    tokens = Tokens.random(rng, KvLayout(2, 4, 2, 32), 6, 4, 32)
    tokens.slots[:] = [3, -1, 8, 2**31 - 1, -(2**31), 0]
    tokens.check(stream)


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_position_outside_the_table_is_poison_and_never_finite(stream, rng, interleaved):
    tokens = Tokens.random(rng, KvLayout(2, 4, 2, 32), 5, 4, 32)
    tokens.positions[:] = [-1, 50, 49, 2**31 - 1, 0]
    tokens.check(stream, interleaved=interleaved)


def test_rows_with_nan_infinity_and_what_overflows_when_it_turns(stream, rng):
    tokens = Tokens.random(rng, KvLayout(2, 4, 1, 16), 6, 1, 16)
    tokens.k[0, 0, 3], tokens.k[1, 0, 9] = np.nan, np.inf
    tokens.k[2], tokens.k[3], tokens.k[4] = 65504.0, -0.0, 2.0**-24
    tokens.q[:] = tokens.k
    tokens.check(stream)


def test_a_rotation_by_nothing_is_the_plain_append(stream, rng):
    layout = KvLayout(2, 4, 2, 64)
    tokens = Tokens.random(rng, layout, 7, 1, 64)
    tokens.cos_sin[:, :32], tokens.cos_sin[:, 32:] = 1.0, 0.0
    memory = [stream.clone_htod(a.ravel()) for a in (tokens.k, tokens.v, tokens.slots)]
    tables = [stream.clone_htod(a.ravel()) for a in (tokens.positions, tokens.cos_sin)]
    plain, rotated = (Int8KvPools.allocate(stream, layout) for _ in range(2))
    int8_kv_cache_append(stream, *memory[:2], plain, memory[2])
    int8_kv_cache_append_rotary(stream, *memory[:2], rotated, memory[2], *tables)
    for one, other in zip(plain.slices, rotated.slices, strict=True):
        np.testing.assert_array_equal(stream.clone_dtoh(one), stream.clone_dtoh(other))


@pytest.mark.parametrize("offset", [0, 1, 8])
@pytest.mark.parametrize("interleaved", [False, True])
def test_q_turns_in_place_inside_a_fused_projection(stream, rng, offset, interleaved):
    """[num_tokens, (q, k, v) heads, head_dim]: q is written between the columns that are read."""
    layout = KvLayout(3, 4, 2, 32)
    fused = random_half(rng, (5, 4 + 2 + 2, 32), "float16")
    memory = stream.clone_htod(np.concatenate([np.zeros(offset, np.float16), fused.ravel()]))
    positions, cos_sin = np.array([3, 0, 9, 1, 2], np.int32), table(10, 32)
    slots = np.array([7, 0, 3, 11, 4], np.int32)
    pools = Int8KvPools.allocate(stream, layout)
    strides = (8 * 32, 32)
    int8_kv_cache_append_rotary(
        stream,
        memory[offset + 4 * 32 :],
        memory[offset + 6 * 32 :],
        pools,
        *(stream.clone_htod(a.ravel()) for a in (slots, positions, cos_sin)),
        interleaved=interleaved,
        q=memory[offset:],
        num_q_heads=4,
        k_strides=strides,
        v_strides=strides,
        q_strides=strides,
    )
    turned = reference.rotary_embedding(fused[:, :6], positions, cos_sin, interleaved=interleaved)
    after = stream.clone_dtoh(memory)[offset:].reshape(fused.shape)
    same_bits(after[:, :4], turned[:, :4])
    same_bits(after[:, 4:], fused[:, 4:])
    codes, scales = reference.quantize(turned[:, 4:])
    np.testing.assert_array_equal(stream.clone_dtoh(pools.k_pool).reshape(12, 2, 32)[slots], codes)
    np.testing.assert_array_equal(stream.clone_dtoh(pools.k_scales).reshape(12, 2)[slots], scales)
    codes, _ = reference.quantize(fused[:, 6:])
    np.testing.assert_array_equal(stream.clone_dtoh(pools.v_pool).reshape(12, 2, 32)[slots], codes)


def test_scores_depend_on_distances_alone(stream, rng):
    """What a rotation is for: q . k is the same wherever both stand, if their distance is."""
    x = rng.standard_normal((1, 2, 64)).astype(np.float16)
    scores = []
    for first in (0, 17):
        q, k = (
            reference.rotary_embedding(x[:, i : i + 1], np.array([at], np.int32), table(50, 64))
            for i, at in ((0, first + 5), (1, first))
        )
        scores.append((q.astype(np.float64) * k.astype(np.float64)).sum())
    assert abs(scores[0] - scores[1]) < 2e-2


@pytest.fixture
def call(stream: CudaStream) -> dict[str, Any]:
    return {
        "k": stream.alloc_zeros(3 * 2 * 16, np.float16),
        "v": stream.alloc_zeros(3 * 2 * 16, np.float16),
        "pools": Int8KvPools.allocate(stream, KvLayout(4, 2, 2, 16)),
        "slot_mapping": stream.clone_htod(np.arange(3, dtype=np.int32)),
        "positions": stream.clone_htod(np.arange(3, dtype=np.int32)),
        "cos_sin": stream.alloc_zeros(5 * 16, np.float32),
        "q": stream.alloc_zeros(3 * 4 * 16, np.float16),
        "num_q_heads": 4,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rotary_dim": 18}, "rotary_dim is 18; wanted 2 to 16"),
        ({"rotary_dim": 0}, "rotary_dim is 0; wanted 2 to 16"),
        ({"rotary_dim": 5}, "rotary_dim is 5; wanted an even number"),
        (
            {"rotary_dim": 12},
            r"cos_sin has 80 elements; wanted \[max_position, rotary_dim\], a mul",
        ),
        ({"num_q_heads": 0}, "num_q_heads is 0; wanted 1 to"),
        ({"num_q_heads": 5}, "q has 192 elements; wanted at least 240"),
        ({"q": None}, "q is None; wanted one for num_q_heads or q_out"),
        ({"num_tokens": 4}, "slot_mapping has 3 elements; wanted at least 4"),
        ({"q_strides": (64, 8)}, r"q_strides is \(64, 8\); wanted strides with which the rows"),
        ({"q_strides": (65, 16)}, "q has 192 elements; wanted at least 194"),
        ({"q_out_strides": (64, 16)}, r"q_out_strides is \(64, 16\); wanted None without q_out"),
        ({"positions": None}, "positions is NoneType; wanted a slice of int32"),
    ],
)
def test_it_refuses(stream, call, changed, message):
    with pytest.raises(ArgumentError, match=f"{NAME}: {message}"):
        int8_kv_cache_append_rotary(stream, **{**call, **changed})
    int8_kv_cache_append_rotary(stream, **call)


def test_it_refuses_short_slices_other_types_and_overlaps(stream, call):
    def refused(message: str, **changed: Any) -> None:
        with pytest.raises(ArgumentError, match=message):
            int8_kv_cache_append_rotary(stream, **{**call, **changed})

    refused("positions has 2 elements; wanted at least 3", positions=call["positions"][:2])
    refused("cos_sin is a slice of float16; wanted float32", cos_sin=call["q"])
    refused("q is a slice of bfloat16; wanted float16", q=call["q"].view(bfloat16))
    refused("q_out has 191 elements; wanted at least 192", q_out=stream.alloc(191, np.float16))
    refused("q_out is a slice of float32; wanted float16", q_out=stream.alloc(192, np.float32))
    fused = stream.alloc_zeros(4 * 8 * 16, np.float16)
    strides = {"q_strides": (128, 16), "k_strides": (128, 16)}
    refused(r"q at .* overlaps k at", q=fused, k=fused[3 * 16 :], **strides)
    refused(r"q at .* overlaps k at", q=fused[7 * 16 :], k=fused[2 * 16 :], **strides)
    refused(r"q_out at .* overlaps q at", q=fused, q_out=fused[16 : 16 + 192])
    refused(r"q_out at .* overlaps k_pool at", q_out=call["pools"].k_pool.view(np.float16)[:128],
            num_q_heads=2)  # fmt: skip
    refused(r"k_pool at .* overlaps cos_sin at", cos_sin=call["pools"].k_pool.view(np.float32)[:48])


def test_closed_slices_and_wrong_contents_are_found(stream, call):
    def debug(**changed: Any) -> None:
        int8_kv_cache_append_rotary(stream, **{**call, **changed}, debug=True)

    debug()
    with pytest.raises(ArgumentError, match=f"{NAME}: positions\\[1\\] is 5; wanted 0 to 4"):
        debug(positions=stream.clone_htod(np.array([0, 5, -1], np.int32)))
    with pytest.raises(ArgumentError, match=f"{NAME}: slot_mapping\\[2\\] is 8; wanted -1 or 0"):
        debug(slot_mapping=stream.clone_htod(np.array([0, 1, 8], np.int32)))
    call["cos_sin"].close()
    with pytest.raises(ClosedError, match=r"cos_sin is .*closed"):
        int8_kv_cache_append_rotary(stream, **call)


def test_the_reference_rounds_bfloat16_to_nearest():
    x = to_bfloat16(np.array([[[1.0, 1.0]]], np.float32))
    cos_sin = np.array([[1.00390625, 0.0]], np.float32)  # a tie between 1 and 1.0078125: to even
    turned = reference.rotary_embedding(x, np.zeros(1, np.int32), cos_sin)
    assert turned.view(np.uint16).ravel().tolist() == [0x3F80, 0x3F80]
