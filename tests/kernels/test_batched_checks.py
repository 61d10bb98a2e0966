"""The batched forms: what they refuse, what debug mode finds, and what a workspace is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from helpers.kv_cache import HostCache, assert_close, make_cache, random_half

from pyferrum_kv import ArgumentError, CaptureError, ClosedError, CudaStream, reference
from pyferrum_kv.int8_kv import (
    Int8KvPools,
    KvLayout,
    Workspace,
    int8_kv_cache_append,
    paged_decode_attention_int8,
)

DECODE, APPEND = "paged_decode_attention_int8", "int8_kv_cache_append"


@dataclass
class Call:
    """A batched decode that is right; a test changes one thing."""

    stream: CudaStream
    cache: HostCache
    q: np.ndarray
    given: dict[str, Any] = field(default_factory=dict)

    def launch(self, **changed: Any) -> None:
        paged_decode_attention_int8(self.stream, **{**self.given, **changed})

    def check(self) -> None:
        wanted, _ = reference.paged_decode_attention_int8(
            self.q, *self.cache.arrays, self.cache.block_table, self.cache.kv_lens
        )
        assert_close(self.stream.clone_dtoh(self.given["out"]), wanted)


@pytest.fixture
def call(stream: CudaStream, rng: np.random.Generator) -> Call:
    cache = make_cache(rng, [19, 6], block_size=8, num_kv_heads=2, head_dim=16)
    q = random_half(rng, (2, 4, 16), "float16")
    given = {
        "q": stream.clone_htod(q.ravel()),
        "pools": cache.to_device(stream),
        "block_table": stream.clone_htod(cache.block_table.ravel()),
        "kv_lens": stream.clone_htod(cache.kv_lens),
        "out": stream.alloc_zeros(q.size, np.float16),
        "num_q_heads": 4,
        "max_kv_len": 19,
    }
    return Call(stream, cache, q, given)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_q_heads": 5}, "num_q_heads 5 is not a multiple of num_kv_heads 2"),
        ({"q_len": 9}, "q_len is 9; wanted 1 to 8"),
        ({"q_len": 2}, r"q has 128 elements; wanted at least 256 \(\(4, 4, 16\)\)"),
        ({"batch_size": 3}, "q has 128 elements; wanted at least 192"),
        ({"batch_size": -1}, "batch_size is -1; wanted 0 to"),
        ({"max_kv_len": -1}, "max_kv_len is -1; wanted 0 to 1073741824"),
        ({"max_kv_len": 2**31}, "max_kv_len is 2147483648; wanted 0 to 1073741824"),
        ({"max_kv_len": 33}, "block_table has 4 entries a sequence; wanted at least 5"),
        ({"max_kv_len": "long"}, "max_kv_len is 'long'; wanted an integer"),
        ({"window_left": -2}, "window_left is -2; wanted -1 to"),
        ({"logit_softcap": -1.0}, r"logit_softcap is -1\.0; wanted a number 0 to"),
        ({"logit_softcap": float("nan")}, "logit_softcap is nan; wanted a number"),
        ({"q_strides": (64,)}, r"q_strides is \(64,\); wanted \(token stride, head stride\)"),
        ({"q_strides": (128, 16)}, "q has 128 elements; wanted at least 192"),
        ({"out_strides": (64, 8)}, r"out_strides is \(64, 8\); wanted strides with which the rows"),
        ({"block_table_stride": 2}, "block_table has 2 entries a sequence; wanted at least 3"),
        ({"softmax_scale": "fast"}, "softmax_scale is 'fast'; wanted a number"),
        ({"entry": "fastest"}, "no entry serves .*fastest was asked for"),
    ],
)
def test_decode_refuses(call, changed, message):
    with pytest.raises(ArgumentError, match=f"{DECODE}: {message}"):
        call.launch(**changed)
    call.launch()
    call.check()


@pytest.mark.parametrize("name", ["sinks", "alibi_slopes", "k_channel_factors", "lse"])
def test_decode_refuses_options_that_are_too_small_or_of_another_type(call, name):
    short = call.stream.alloc_zeros(3, np.float32)
    with pytest.raises(ArgumentError, match=f"{name} has 3 elements; wanted at least"):
        call.launch(**{name: short})
    wrong = call.stream.alloc_zeros(64, np.float16)
    with pytest.raises(ArgumentError, match=f"{name} is a slice of float16; wanted float32"):
        call.launch(**{name: wrong})


def test_decode_refuses_outputs_over_each_other_and_over_inputs(call):
    lse = call.given["out"].view(np.float32)
    with pytest.raises(ArgumentError, match=r"out at .* overlaps lse at"):
        call.launch(lse=lse)
    with pytest.raises(ArgumentError, match=r"out at .* overlaps q at"):
        call.launch(out=call.given["q"])


def test_a_closed_pool_is_refused_though_the_launch_was_prepared(call):
    call.launch()
    call.given["pools"].close()
    with pytest.raises(ClosedError, match=r"k_pool is .*closed"):
        call.launch()


def test_one_prepared_launch_serves_lengths_up_to_a_power_of_two(call, monkeypatch):
    call.launch(max_kv_len=19)
    monkeypatch.setattr("pyferrum_kv.int8_kv.decode.DecodeLaunch", None)
    call.launch(max_kv_len=25)
    call.check()


def test_a_batch_of_no_sequence_is_no_launch(call):
    none = call.stream.alloc(0, np.int32)
    call.launch(kv_lens=none)
    assert not call.stream.clone_dtoh(call.given["out"]).any()


def test_a_workspace_too_small_for_the_splits_asked_for_says_what_would_do(call):
    with Workspace.allocate(call.stream, num_floats=100, num_counters=4) as workspace:
        with pytest.raises(ArgumentError, match="states take 480 floats and the workspace has 100"):
            call.launch(workspace=workspace, num_splits=3, entry=DECODE)
        call.launch(workspace=workspace, entry=DECODE)  # which then goes without splits
    call.check()


def test_the_per_thread_stream_needs_a_workspace_of_the_caller_s(ctx, call):
    stream = ctx.per_thread_stream()
    with pytest.raises(ArgumentError, match=r"wanted one, .*Workspace\.allocate\(stream\)"):
        Workspace.of(stream)


def test_a_workspace_is_not_reserved_inside_a_capture(ctx):
    stream = ctx.new_stream()
    with pytest.raises(CaptureError, match="preload"), stream.capture():
        Workspace.of(stream)


def test_a_stream_gives_its_workspace_back(ctx):
    stream = ctx.new_stream()
    stream.alloc(1, np.int8).close()  # the context's pool is there
    before = len(ctx.ledger)
    assert Workspace.of(stream) is Workspace.of(stream)
    assert len(ctx.ledger) == before + 2
    stream.close()
    ctx.synchronize()
    assert len(ctx.ledger) == before - 1  # nor the stream itself


@pytest.mark.parametrize(
    ("kv_lens", "entry", "message"),
    [
        ([19, -1], None, r"kv_lens\[1\] is -1; wanted 0 to max_kv_len 19"),
        ([20, 6], None, r"kv_lens\[0\] is 20; wanted 0 to max_kv_len 19"),
        (
            [19, 6],
            (0, 2),
            r"block_table\[0, 2\] is 6; wanted a block 0 to 5, as kv_lens\[0\] is 19",
        ),
        ([19, 6], (1, 0), r"block_table\[1, 0\] is 6; wanted a block 0 to 5, as kv_lens\[1\] is 6"),
    ],
)
def test_debug_mode_finds_what_points_outside_the_pool(call, kv_lens, entry, message):
    table = call.cache.block_table.copy()
    assert call.cache.layout.num_blocks == 6
    if entry:
        table[entry] = 6
    changed = {
        "kv_lens": call.stream.clone_htod(np.array(kv_lens, np.int32)),
        "block_table": call.stream.clone_htod(table.ravel()),
    }
    with pytest.raises(ArgumentError, match=f"{DECODE}: {message}"):
        call.launch(debug=True, **changed)


def test_debug_mode_lets_the_unused_tail_of_a_table_be(call, monkeypatch):
    monkeypatch.setattr("pyferrum_kv.int8_kv.debug.ENABLED", True)
    call.launch()
    call.check()


def test_debug_mode_is_refused_inside_a_capture(call):
    call.launch()
    with pytest.raises(CaptureError, match="debug mode waits"), call.stream.capture():
        call.launch(debug=True)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([0, -2, 1], r"slot_mapping\[1\] is -2; wanted -1 or 0 to 7"),
        ([0, 1, 8], r"slot_mapping\[2\] is 8; wanted -1 or 0 to 7"),
        ([3, 5, 3], r"slot_mapping\[0\] and \[2\] are both 3; wanted distinct slots"),
    ],
)
def test_debug_mode_finds_slots_outside_the_pool_and_slots_named_twice(stream, slots, message):
    pools = Int8KvPools.allocate(stream, KvLayout(2, 4, 1, 8))
    k = stream.alloc_zeros(3 * 8, np.float16)
    given = stream.clone_htod(np.array(slots, np.int32))
    with pytest.raises(ArgumentError, match=f"{APPEND}: {message}"):
        int8_kv_cache_append(stream, k, k, pools, given, debug=True)


def test_debug_mode_takes_skipped_tokens_for_what_they_are(stream):
    pools = Int8KvPools.allocate(stream, KvLayout(2, 4, 1, 8))
    k = stream.alloc_zeros(3 * 8, np.float16)
    slots = stream.clone_htod(np.array([-1, 7, -1], np.int32))
    int8_kv_cache_append(stream, k, k, pools, slots, debug=True)


def test_pools_refuse_what_does_not_hold_the_layout(stream):
    layout = KvLayout(2, 4, 1, 8)
    codes, scales = stream.alloc(128, np.int8), stream.alloc(16, np.float16)
    with pytest.raises(
        ArgumentError, match=r"v_pool has 63 elements; wanted at least 64 \(\[2, 4, 1, 8\]"
    ):
        Int8KvPools(layout, codes[:64], codes[64:127], scales[:8], scales[8:])
    with pytest.raises(ArgumentError, match=r"k_scales at .* overlaps v_scales at"):
        Int8KvPools(layout, codes[:64], codes[64:], scales[:8], scales[7:15])
    Int8KvPools(layout, codes[:64], codes[64:], scales[:8], scales[8:])
