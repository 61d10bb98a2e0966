"""What the shipped kernels ask of memory, exactly: other numbers are another speed.

Every decode entry that is emulated is here, by the families that the planner knows: a new one needs
a row in SHAPES, and one that only Hopper runs a part of its name in HOPPER. Lines are found by
opcode and file, so that edits elsewhere in a kernel change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from helpers.decode import check
from helpers.kv_cache import make_cache, random_half

from pyferrum_kv import CudaContext, PtxBundle
from pyferrum_kv.int8_kv import Int8KvPools, KvLayout, int8_kv_cache_append
from pyferrum_kv.int8_kv.explain import ENTRIES
from pyferrum_kv.virtual import VirtualDriver
from pyferrum_kv.virtual.metrics import LineFacts

SECTOR, TILE, NUM_KV_HEADS = 32, 16, 2
GENERAL = "paged_decode_attention_int8"
HOPPER = ("_tma_", "_cluster_")
SHAPES = {  # stem -> (num_q_heads, head_dim, block_size)
    f"{GENERAL}_d32": (8, 32, 16),
    f"{GENERAL}_d32_any_block": (8, 32, 5),
    f"{GENERAL}_d64_rows16": (32, 64, 16),
    f"{GENERAL}_d64": (8, 64, 16),
    f"{GENERAL}_d64_any_block": (8, 64, 5),
    f"{GENERAL}_d80": (8, 80, 16),
    f"{GENERAL}_d80_any_block": (8, 80, 5),
    f"{GENERAL}_d96": (8, 96, 16),
    f"{GENERAL}_d96_any_block": (8, 96, 5),
    f"{GENERAL}_d128_rows16": (32, 128, 16),
    f"{GENERAL}_d128": (8, 128, 16),
    f"{GENERAL}_d128_any_block": (8, 128, 5),
    f"{GENERAL}_d192": (8, 192, 16),
    f"{GENERAL}_d192_any_block": (8, 192, 5),
    f"{GENERAL}_d256": (8, 256, 16),
    f"{GENERAL}_d256_any_block": (8, 256, 5),
}
READ = {80: (Fraction(11, 10), Fraction(7, 5))}
"""head_dim -> bytes and sectors read for each byte of codes, where it is no multiple of 32: the
last lanes of V read a word twice, and a row's loads share sectors. Else 1 and 1."""
CONFLICTS = {  # head_dim, query rows of a tile -> a warp's, when it leaves its state of a piece
    (32, 8): 4, (64, 8): 24, (80, 8): 26, (96, 8): 24, (128, 8): 12, (192, 8): 28, (256, 8): 12,
    (64, 16): 56, (128, 16): 88,
}  # fmt: skip
TILES, RAGGED = (96, 48), (96, 40)
every_family = pytest.mark.parametrize("stem", SHAPES)
both_dtypes = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@cache
def decode_facts(
    stem: str,
    kv_lens: tuple[int, ...],
    dtype: str = "float16",
    head_dim: int = 0,
    num_splits: int = 0,
) -> list[LineFacts]:
    """A decode that gives the right answer, counted; what is kept is small."""
    num_q_heads, dim, block_size = SHAPES.get(stem, (8, head_dim, 16))
    rng, driver = np.random.default_rng(3), VirtualDriver(metrics=True)
    with CudaContext.new(0, driver=driver) as context:
        kv = make_cache(
            rng, list(kv_lens), block_size=block_size, num_kv_heads=NUM_KV_HEADS, head_dim=dim
        )
        q = random_half(rng, (len(kv_lens), num_q_heads, dim), dtype)
        check(context.new_stream(), kv, q, dtype=dtype, entry=stem, num_splits=num_splits)
        found = driver.launches[-1].facts.lines
    context.close()
    return found


def lines(facts: list[LineFacts], text: str, file: str = "") -> list[LineFacts]:
    return [line for line in facts if text in line.ptx_text and line.cu_line.startswith(file)]


def bank_conflicts(facts: list[LineFacts]) -> int:
    return sum(line.bank_conflicts for line in facts)


def num_bytes(found: Iterable[LineFacts]) -> int:
    return sum(line.num_bytes for line in found)


def sector_bytes(found: Iterable[LineFacts]) -> int:
    return SECTOR * sum(line.sectors for line in found)


def test_every_family_is_measured():
    stems = {family.stem for family in ENTRIES}
    hopper = {stem for stem in stems if any(part in stem for part in HOPPER)}
    assert stems - hopper == {*SHAPES, GENERAL}
    assert {stem for stem in stems if PtxBundle.default().is_newer_only(stem)} == hopper


@both_dtypes
@every_family
def test_decode_reads_each_code_once_and_in_whole_sectors(stem: str, dtype: str) -> None:
    codes = lines(decode_facts(stem, TILES, dtype), "L1::no_allocate")
    head_dim = SHAPES[stem][1]
    wanted = 2 * sum(TILES) * NUM_KV_HEADS * head_dim
    of_bytes, of_sectors = READ.get(head_dim, (1, 1))
    assert (num_bytes(codes), sector_bytes(codes)) == (wanted * of_bytes, wanted * of_sectors)


@every_family
def test_decode_rounds_a_ragged_length_up_to_a_tile_and_no_further(stem: str) -> None:
    codes = lines(decode_facts(stem, RAGGED), "L1::no_allocate")
    tokens, head_dim = sum(-(-n // TILE) * TILE for n in RAGGED), SHAPES[stem][1]
    wanted = 2 * tokens * NUM_KV_HEADS * head_dim
    of_bytes, of_sectors = READ.get(head_dim, (1, 1))
    assert num_bytes(codes) == wanted * of_bytes
    assert sector_bytes(codes) <= wanted * of_sectors  # past the end: the last token again


@both_dtypes
@every_family
def test_decode_reads_each_scale_once_and_the_table_once_a_tile(stem: str, dtype: str) -> None:
    facts = decode_facts(stem, TILES, dtype)
    scales = lines(facts, "ld.global.nc.u16")
    assert num_bytes(scales) == 2 * 2 * sum(TILES) * NUM_KV_HEADS
    table = lines(facts, "ld.global.nc.s32", "tile_cache.cuh")
    tiles = sum(TILES) // TILE * NUM_KV_HEADS
    assert sum(line.requests for line in table) == sum(line.requests for line in scales) == tiles


@both_dtypes
@every_family
def test_decode_writes_each_output_once(stem: str, dtype: str) -> None:
    facts = decode_facts(stem, TILES, dtype)
    num_q_heads, head_dim, _ = SHAPES[stem]
    out = lines(facts, "st.global.v2.u32")
    assert num_bytes(out) == 2 * len(TILES) * num_q_heads * head_dim


@both_dtypes
@every_family
def test_decode_meets_no_bank_conflict_while_it_walks_the_tokens(stem: str, dtype: str) -> None:
    """Only the exchange of states has any, once a warp and piece."""
    facts = decode_facts(stem, TILES, dtype)
    finish = lines(facts, "", "decode_finish.cuh")
    assert bank_conflicts(facts) == bank_conflicts(finish)
    pieces = {line.shared_requests for line in lines(finish, "st.shared.f32")}
    tile = 16 if stem.endswith("_rows16") else 8
    assert bank_conflicts(finish) == CONFLICTS[SHAPES[stem][1], tile] * pieces.pop()
    assert not pieces


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(64, "float16"), (64, "bfloat16"), (80, "float16"), (128, "float16")]
)
def test_general_decode_reads_each_further_code_once(head_dim: int, dtype: str) -> None:
    """Tokens cost the sectors that their rows lie in and no more, for four query heads at once.

    A warp's first and last turn, in which it reads ahead, are the same in both launches.
    """
    short, long = (
        decode_facts(GENERAL, (n,), dtype, head_dim=head_dim, num_splits=1) for n in (128, 256)
    )
    cost = [sector_bytes(lines(facts, "ld.global.nc.v2", "row_tile")) for facts in (short, long)]
    row = -(-head_dim // SECTOR) * SECTOR
    assert cost[1] - cost[0] == 2 * 128 * NUM_KV_HEADS * row
    assert bank_conflicts(short) == bank_conflicts(long)


@cache
def append_facts(head_dim: int, dtype: str, shift: int = 0) -> list[LineFacts]:
    """16 tokens appended, `shift` elements after an aligned address."""
    rng, driver = np.random.default_rng(3), VirtualDriver(metrics=True)
    with CudaContext.new(0, driver=driver) as context:
        stream, layout = context.new_stream(), KvLayout(4, 16, NUM_KV_HEADS, head_dim)
        rows = random_half(rng, (16 * NUM_KV_HEADS * head_dim + shift,), dtype)
        k = stream.clone_htod(rows)[shift:]
        slots = stream.clone_htod(np.arange(16, dtype=np.int32))
        int8_kv_cache_append(stream, k, k, Int8KvPools.allocate(stream, layout), slots)
        stream.synchronize()
        found = driver.launches[-1].facts.lines
    context.close()
    return found


@both_dtypes
@pytest.mark.parametrize(
    ("head_dim", "of_sectors"), [(32, 2), (64, 1), (80, Fraction(7, 5)), (128, 1), (256, 1)]
)
def test_append_reads_whole_sectors_once_and_writes_each_code_once(
    head_dim: int, of_sectors: Fraction, dtype: str
) -> None:
    """Where half of a row is no multiple of 32 codes, the two halves are written to one sector."""
    facts = append_facts(head_dim, dtype)
    values = 16 * NUM_KV_HEADS * head_dim
    rows = lines(facts, "ld.global.nc.L1::no_allocate.L2::128B.v4.u32")
    assert (num_bytes(rows), sector_bytes(rows)) == (4 * values, 4 * values)
    codes = lines(facts, "st.global.v2.u32")
    assert (num_bytes(codes), sector_bytes(codes)) == (2 * values, 2 * values * of_sectors)
    assert num_bytes(lines(facts, "st.global.u16")) == 2 * 2 * 16 * NUM_KV_HEADS
    assert not lines(facts, "shared")


@both_dtypes
def test_append_of_unaligned_rows_reads_each_element_once(dtype: str) -> None:
    facts = append_facts(128, dtype, shift=1)
    assert (
        num_bytes(lines(facts, "ld.global.u16", "kv_quantize.cuh")) == 4 * 16 * NUM_KV_HEADS * 128
    )
    assert num_bytes(lines(facts, "v4.u32")) == 0
