"""What the device pays for a launch: from one empty kernel to the next, back to back.

A batch of launches stands between two events, behind a kernel that is busy until all of them are
queued, so that the host's pace does not count. A batch that the host could not queue in that time
says nothing about the device, and is left out.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import numpy as np

from benchmarks.launch_subject import ONE_WARP, Subject
from pyferrum_kv import PreparedLaunch

BUSY_NS = 20_000_000  # ten times what 400 launches take the slowest of those measured
SPIN = """.version 7.0
.target sm_80
.address_size 64
.visible .entry spin(.param .u64 ns)
{
    .reg .pred %p;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd0, [ns];
    mov.u64 %rd1, %globaltimer;
LOOP:
    mov.u64 %rd2, %globaltimer;
    sub.s64 %rd3, %rd2, %rd1;
    setp.lt.u64 %p, %rd3, %rd0;
    @%p bra LOOP;
    ret;
}
"""
Batch = Callable[[int], float]


def on_device(
    subject: Subject, batches: dict[str, Batch], launches: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Median and quartiles of device microseconds a launch; a name without a batch is left out."""
    ctx = subject.ctx
    spin = ctx.load_module(SPIN, name="spin.ptx").function("spin")
    busy = spin.prepare(ONE_WARP, np.uint64(BUSY_NS), stream=subject.stream)
    times: dict[str, list[float]] = {name: [] for name in batches}
    names, order = list(batches), random.Random(0)
    for round_number in range(-1, rounds):
        order.shuffle(names)
        for name in names:
            us = _between_events(subject, busy, batches[name], launches)
            if round_number >= 0 and us is not None:
                times[name].append(us)
    return {name: _quartiles(us) for name, us in times.items() if len(us) > 1}


def _between_events(
    subject: Subject, busy: PreparedLaunch, batch: Batch, launches: int
) -> float | None:
    start, end = (subject.ctx.new_event(timing=True) for _ in range(2))
    with start, end:
        busy.launch()
        start.record(subject.stream)
        batch(launches)
        end.record(subject.stream)
        is_late = start.is_done  # the device went ahead before all was queued
        end.synchronize()
        return None if is_late else (end - start) * 1e3 / launches


def _quartiles(us: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(us, n=4)
    return {"p25": low, "p50": median, "p75": high}
