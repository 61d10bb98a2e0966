"""ferrum-kernels' launchers: right answers, cheap repeats, and refusals before the launch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from helpers.kv_cache import HostCache, assert_close, make_cache, random_half

from pyferrum_kv import ArgumentError, ClosedError, CudaContext, CudaSlice, reference
from pyferrum_kv.int8_kv import (
    launch_int8_kv_cache_append,
    launch_int8_paged_decode_attention,
    preload,
)

HEADS, KV_HEADS, DIM, BLOCK = 4, 2, 16, 5


@dataclass
class Decode:
    """A decode call that is right; a test changes one thing."""

    ctx: CudaContext
    cache: HostCache
    q_host: np.ndarray
    given: dict[str, Any] = field(default_factory=dict)

    def launch(self, **changed: Any) -> None:
        launch_int8_paged_decode_attention(self.ctx, **{**self.given, **changed})

    def output(self) -> np.ndarray:
        host = self.ctx.default_stream().clone_dtoh(self.given["output"])
        return host.reshape(self.q_host.shape[1:])

    def expected(self, kv_len: int, scale: float) -> np.ndarray:
        out, _ = reference.paged_decode_attention_int8(
            self.q_host,
            *self.cache.arrays,
            self.cache.block_table,
            np.array([kv_len], np.int32),
            softmax_scale=scale,
        )
        return out[0]


@pytest.fixture
def decode(ctx: CudaContext, rng: np.random.Generator) -> Decode:
    stream = ctx.default_stream()
    cache = make_cache(rng, [19], block_size=BLOCK, num_kv_heads=KV_HEADS, head_dim=DIM)
    q = random_half(rng, (1, HEADS, DIM), "float16")
    pools = [stream.clone_htod(a.ravel()) for a in cache.arrays]
    given = {
        "q": stream.clone_htod(q.ravel()),
        **dict(zip(("k_pool", "v_pool", "k_scales_pool", "v_scales_pool"), pools, strict=True)),
        "block_table": stream.clone_htod(cache.block_table[0]),
        "output": stream.alloc_zeros(HEADS * DIM, np.float16),
        "num_q_heads": HEADS,
        "num_kv_heads": KV_HEADS,
        "head_dim": DIM,
        "valid_kv_len": 19,
        "block_size": BLOCK,
        "scale": 0.25,
    }
    return Decode(ctx, cache, q, given)


def test_decode_equals_the_reference_at_every_length_and_scale_it_is_called_with(decode):
    for kv_len, scale in ((19, 0.25), (1, 0.25), (19, 0.5), (0, 0.25), (12, 1.0)):
        decode.launch(valid_kv_len=kv_len, scale=scale)
        assert_close(decode.output(), decode.expected(kv_len, scale))


def test_a_repeated_call_prepares_nothing_again(decode, monkeypatch):
    decode.launch()
    monkeypatch.setattr("pyferrum_kv.int8_kv.launchers._bind_decode", None)
    decode.launch(valid_kv_len=7)
    assert_close(decode.output(), decode.expected(7, 0.25))


def test_numpy_numbers_are_numbers(decode):
    decode.launch(valid_kv_len=np.int64(19), scale=np.float32(0.25), num_q_heads=np.int32(HEADS))
    assert_close(decode.output(), decode.expected(19, 0.25))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"valid_kv_len": -1}, "valid_kv_len is -1; wanted an integer 0 to 25"),
        ({"valid_kv_len": 26}, "valid_kv_len is 26; wanted an integer 0 to 25"),
        ({"valid_kv_len": 2**40}, "valid_kv_len is 1099511627776"),
        ({"valid_kv_len": 3.0}, r"valid_kv_len is 3\.0; wanted an integer"),
        ({"scale": "fast"}, "scale is 'fast'; wanted a number"),
        ({"scale": 1e300}, r"scale is 1e\+300; wanted a number"),
        ({"num_q_heads": 3}, "num_q_heads 3 is not a multiple of num_kv_heads 2"),
        ({"num_q_heads": 0}, "num_q_heads is 0; wanted 1 to"),
        ({"num_q_heads": 6}, r"q has 64 elements; wanted at least 96 \(\[6, 16\]\)"),
        ({"num_kv_heads": -2}, "num_kv_heads is -2; wanted 1 to"),
        ({"head_dim": 12}, "head_dim is 12; wanted a multiple of 8 from 8 to 256"),
        ({"head_dim": 264}, "head_dim is 264; wanted 8 to 256"),
        ({"block_size": 0}, "block_size is 0; wanted 1 to"),
        ({"block_size": 7}, "k_pool has .* elements; wanted whole blocks of 224"),
        ({"block_size": 2**31}, "block_size is 2147483648; wanted 1 to 2147483647"),
        ({"q": None}, "q is NoneType; wanted a slice of float16 or bfloat16"),
        ({"q": np.zeros(64, np.float16)}, "q is ndarray; wanted a slice"),
    ],
)
def test_decode_refuses_wrong_numbers_before_and_after_it_is_prepared(decode, changed, message):
    with pytest.raises(ArgumentError, match=message):
        decode.launch(**changed)
    decode.launch()
    with pytest.raises(ArgumentError, match=message):
        decode.launch(**changed)
    decode.launch()
    assert_close(decode.output(), decode.expected(19, 0.25))


@pytest.mark.parametrize(
    "name", ["v_pool", "k_scales_pool", "v_scales_pool", "output", "q", "block_table"]
)
def test_decode_refuses_memory_that_is_too_small(decode, name):
    short = decode.given[name][: 0 if name == "block_table" else len(decode.given[name]) - 1]
    with pytest.raises(ArgumentError, match=rf"{name} has {len(short)} elements; wanted at least"):
        decode.launch(**{name: short})


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("k_pool", np.uint8),
        ("v_pool", np.uint8),
        ("k_scales_pool", np.uint16),
        ("v_scales_pool", np.uint16),
        ("q", np.uint16),
        ("output", np.uint16),
        ("block_table", np.uint32),
    ],
)
def test_decode_refuses_memory_of_another_type(decode, name, dtype):
    wrong = decode.given[name].view(dtype)
    with pytest.raises(ArgumentError, match=f"{name} is a slice of {np.dtype(dtype).name}; wanted"):
        decode.launch(**{name: wrong})


def test_decode_refuses_an_output_of_another_half_than_q(decode):
    wrong = decode.given["output"].view("bfloat16")
    with pytest.raises(ArgumentError, match="output is a slice of bfloat16; wanted float16"):
        decode.launch(output=wrong)


def test_decode_refuses_an_output_over_an_input(decode):
    with pytest.raises(ArgumentError, match=r"output at .* overlaps q at"):
        decode.launch(output=decode.given["q"])
    scales = decode.given["k_scales_pool"]
    longer = decode.ctx.default_stream().alloc_zeros(len(scales) + HEADS * DIM, np.float16)
    with pytest.raises(ArgumentError, match=r"output at .* overlaps k_scales_pool at"):
        decode.launch(k_scales_pool=longer, output=longer[len(scales) - 1 :])


def test_decode_refuses_a_misaligned_pool(decode):
    pool = decode.given["k_pool"]
    with pytest.raises(
        ArgumentError, match=r"k_pool is at .*; wanted an address that is a multiple"
    ):
        decode.launch(k_pool=pool[1:][: len(pool) - 160])


@pytest.mark.parametrize("name", ["q", "k_pool", "v_scales_pool", "block_table", "output"])
def test_a_closed_slice_is_refused_though_the_launch_was_prepared(decode, name):
    decode.launch()
    decode.given[name].close()
    with pytest.raises(ClosedError, match=f"{name} is .*closed"):
        decode.launch()


def test_a_new_slice_at_the_same_address_is_checked_anew(decode):
    decode.launch()
    owner: CudaSlice = decode.given["output"]
    shorter = owner[: len(owner) - 8]
    with pytest.raises(ArgumentError, match="output has 56 elements"):
        decode.launch(output=shorter)


def test_threads_that_share_a_prepared_launch_keep_their_lengths_apart(decode):
    """Each thread's length and scale reach the device together: outputs match one of the calls."""
    expected = {n: decode.expected(n, n / 20) for n in (3, 11, 19)}
    failures = []

    def work(kv_len: int) -> None:
        try:
            for _ in range(4):
                decode.launch(valid_kv_len=kv_len, scale=kv_len / 20)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    out = decode.output().astype(np.float64)
    assert any(np.abs(out - wanted).max() < 1e-3 for wanted in expected.values())


def test_nothing_is_allocated_by_a_launch_after_preload(decode):
    preload(decode.ctx)
    before = len(decode.ctx.ledger)
    decode.launch()
    decode.launch(valid_kv_len=3)
    assert len(decode.ctx.ledger) == before


@pytest.fixture
def append(ctx: CudaContext, rng: np.random.Generator) -> dict[str, Any]:
    stream = ctx.default_stream()
    k, v = (random_half(rng, (3, KV_HEADS, DIM), "float16") for _ in "kv")
    return {
        "ctx": ctx,
        "k_in": stream.clone_htod(k.ravel()),
        "v_in": stream.clone_htod(v.ravel()),
        "k_out_pool": stream.alloc_zeros(10 * KV_HEADS * DIM, np.int8),
        "v_out_pool": stream.alloc_zeros(10 * KV_HEADS * DIM, np.int8),
        "k_scales_pool": stream.alloc_zeros(10 * KV_HEADS, np.float16),
        "v_scales_pool": stream.alloc_zeros(10 * KV_HEADS, np.float16),
        "slot_mapping": stream.clone_htod(np.array([9, -1, 4], np.int32)),
        "num_tokens": 3,
        "num_kv_heads": KV_HEADS,
        "head_dim": DIM,
    }


def test_append_writes_the_reference_s_codes_to_flat_slots(append):
    launch_int8_kv_cache_append(**append)
    launch_int8_kv_cache_append(**append)
    read = append["ctx"].default_stream().clone_dtoh
    for given, pool, scales in (
        ("k_in", "k_out_pool", "k_scales_pool"),
        ("v_in", "v_out_pool", "v_scales_pool"),
    ):
        codes, expected = reference.quantize(read(append[given]).reshape(3, KV_HEADS, DIM))
        got = read(append[pool]).reshape(10, KV_HEADS, DIM)
        np.testing.assert_array_equal(got[[9, 4]], codes[[0, 2]])
        np.testing.assert_array_equal(
            read(append[scales]).reshape(10, KV_HEADS)[[9, 4]], expected[[0, 2]]
        )
        assert not np.delete(got, [9, 4], axis=0).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_tokens": 4}, r"slot_mapping has 3 elements; wanted at least 4 \(num_tokens 4\)"),
        ({"num_tokens": -1}, "num_tokens is -1; wanted 0 to 2147483647"),
        ({"num_tokens": 2**31}, "num_tokens is 2147483648; wanted 0 to 2147483647"),
        ({"num_kv_heads": 0}, "num_kv_heads is 0; wanted 1 to"),
        ({"num_kv_heads": 3}, "k_out_pool has 320 elements; wanted whole blocks of 48"),
        ({"head_dim": 260}, "head_dim is 260; wanted 8 to 256"),
        ({"head_dim": 20}, "head_dim is 20; wanted a multiple of 8"),
        ({"head_dim": 32}, "k_scales_pool|k_in has 96 elements; wanted at least 192"),
        ({"k_in": None}, "k_in is NoneType; wanted a slice of float16 or bfloat16"),
    ],
)
def test_append_refuses_wrong_numbers(append, changed, message):
    with pytest.raises(ArgumentError, match=f"launch_int8_kv_cache_append: {message}"):
        launch_int8_kv_cache_append(**{**append, **changed})


def test_append_refuses_pools_that_differ_overlap_or_mix_types(append):
    with pytest.raises(ArgumentError, match=r"v_scales_pool has 19 elements; wanted at least 20"):
        launch_int8_kv_cache_append(**{**append, "v_scales_pool": append["v_scales_pool"][:19]})
    with pytest.raises(ArgumentError, match=r"k_out_pool at .* overlaps v_out_pool"):
        launch_int8_kv_cache_append(**{**append, "v_out_pool": append["k_out_pool"]})
    with pytest.raises(ArgumentError, match="v_in is a slice of bfloat16; wanted float16"):
        launch_int8_kv_cache_append(**{**append, "v_in": append["v_in"].view("bfloat16")})
