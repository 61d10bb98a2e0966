"""The tensor-core entries against float64 attention over the same codes and scales."""

from __future__ import annotations

import numpy as np
import pytest

from pyferrum_kv import CudaStream
from tests.helpers.kv_cache import make_cache, random_half
from tests.kernels.test_decode import check, decode

STEM = "paged_decode_attention_int8_d"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [32, 64, 80, 96, 128, 192, 256])
def test_ragged_batch(
    stream: CudaStream, rng: np.random.Generator, head_dim: int, dtype: str
) -> None:
    cache = make_cache(rng, [0, 1, 17, 54], head_dim=head_dim)
    q = random_half(rng, (4, 6, head_dim), dtype)
    check(stream, cache, q, dtype=dtype, entry=f"{STEM}{head_dim}")


@pytest.mark.parametrize("head_dim", [32, 64, 80, 96, 192])
def test_one_sequence_cut_over_many_workers(
    stream: CudaStream, rng: np.random.Generator, head_dim: int
) -> None:
    cache = make_cache(rng, [300], head_dim=head_dim, spare_blocks=0)
    q = random_half(rng, (1, 4, head_dim), "float16")
    check(stream, cache, q, entry=f"{STEM}{head_dim}", num_splits=5)


@pytest.mark.parametrize("head_dim", [32, 80, 96, 192])
def test_row_tiles_past_the_first_of_heads_that_have_no_tile_of_sixteen(
    stream: CudaStream, rng: np.random.Generator, head_dim: int
) -> None:
    cache = make_cache(rng, [33], head_dim=head_dim, num_kv_heads=1)
    q = random_half(rng, (1, 11, head_dim), "float16")
    check(stream, cache, q, entry=f"{STEM}{head_dim}")


def test_groups_past_eight_rows(stream: CudaStream, rng: np.random.Generator) -> None:
    cache = make_cache(rng, [33], head_dim=64, num_kv_heads=1)
    check(stream, cache, random_half(rng, (1, 11, 64), "float16"), entry=f"{STEM}64_rows16")


@pytest.mark.parametrize(
    ("block_size", "head_dim"), [(1, 64), (5, 64), (5, 32), (1, 80), (5, 96), (1, 192)]
)
def test_blocks_of_any_size(
    stream: CudaStream, rng: np.random.Generator, block_size: int, head_dim: int
) -> None:
    cache = make_cache(rng, [23, 40], head_dim=head_dim, block_size=block_size)
    q = random_half(rng, (2, 4, head_dim), "float16")
    check(stream, cache, q, entry=f"{STEM}{head_dim}_any_block")


@pytest.mark.parametrize("head_dim", [64, 80])
def test_window_and_several_query_tokens(
    stream: CudaStream, rng: np.random.Generator, head_dim: int
) -> None:
    cache = make_cache(rng, [70, 20], head_dim=head_dim)
    options = {"window_left": 21, "q_len": 3}
    check(
        stream,
        cache,
        random_half(rng, (6, 4, head_dim), "float16"),
        entry=f"{STEM}{head_dim}",
        reference_options={"window_left": 21},
        **options,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("head_dim", "group", "block_size"), [(64, 1, 16), (64, 7, 16), (80, 4, 5), (128, 11, 16)]
)
def test_channel_factors_keep_the_digits_that_lse_needs(
    stream: CudaStream,
    rng: np.random.Generator,
    head_dim: int,
    group: int,
    block_size: int,
    dtype: str,
) -> None:
    """Factors from 0.01 to 100, as outlier channels have: scores are large, and so is lse."""
    cache = make_cache(rng, [54, 17, 0], head_dim=head_dim, block_size=block_size)
    q = random_half(rng, (3 * 2, 2 * group, head_dim), dtype)
    factors = np.exp(rng.uniform(-4.6, 4.6, (2, head_dim))).astype(np.float32)
    suffix = "" if block_size == 16 else "_any_block"
    options = {"q_len": 2, "window_left": 40, "num_splits": 2}
    check(
        stream,
        cache,
        q,
        dtype=dtype,
        arrays={"k_channel_factors": factors},
        reference_options={"window_left": 40, "softmax_scale": 0.02},
        entry=f"{STEM}{head_dim}{suffix}",
        softmax_scale=0.02,
        **options,
    )


def test_tiny_v_scales_do_not_underflow(stream: CudaStream, rng: np.random.Generator) -> None:
    cache = make_cache(rng, [150], head_dim=64, v_factor=1e-3)
    out, _ = decode(stream, cache, random_half(rng, (1, 4, 64), "float16"), entry=f"{STEM}64")
    assert np.abs(out.astype(np.float32)).max() > 0
    check(stream, cache, random_half(rng, (1, 4, 64), "float16"), entry=f"{STEM}64")


def test_deterministic_bits_do_not_depend_on_the_batch(
    stream: CudaStream, rng: np.random.Generator
) -> None:
    cache = make_cache(rng, [1100, 40], head_dim=64, num_kv_heads=1)
    q = random_half(rng, (2, 2, 64), "float16")
    both, _ = decode(stream, cache, q, entry=f"{STEM}64", deterministic=True)
    cache.kv_lens, cache.block_table = cache.kv_lens[:1], cache.block_table[:1]
    alone, _ = decode(stream, cache, q[:1], entry=f"{STEM}64", deterministic=True)
    np.testing.assert_array_equal(both[:1], alone)
