"""What bench_launch.py promises, and how its figures are held against that."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import bench_launch
from benchmarks.bench_launch import APPEND, BUILDER, CUPY, DECODE, FROZEN, PREPARED, check


def report(prepared: float = 1.25, frozen: float = 0.6, builder: float = 9.0) -> dict[str, Any]:
    alone = {
        PREPARED: {"of_floor": prepared},
        FROZEN: {"of_floor": frozen},
        BUILDER: {"p50": builder},
    }
    among = {DECODE: {"p50": 5.0}, APPEND: {"p50": 4.0}, CUPY: {"p50": 8.0}}
    return {"alone": alone, "with_peers": among}


def test_the_cheaper_of_prepared_and_frozen_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(report()) == 0
    assert check(report(prepared=1.05, frozen=1.3)) == 0
    said = capsys.readouterr()
    assert f"{PREPARED} takes 1.250x, {FROZEN} takes 0.600x the floor; promised 1.1x" in said.out
    assert not said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prepared": 1.2, "frozen": 1.11}, "takes 1.200x, ours: frozen launch takes 1.110x"),
        ({"builder": 12.5}, "takes 12.50 us; promised 12.0 us"),
    ],
)
def test_a_promise_that_is_not_kept_ends_in_1(
    options: dict[str, float], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(report(**options)) == 1
    error = capsys.readouterr().err
    assert error.startswith("NOT KEPT: ")
    assert said in error


def test_what_is_judged_is_measured() -> None:
    for name in (PREPARED, FROZEN, BUILDER, DECODE, APPEND):
        assert name in bench_launch.CLEAN
    assert {PREPARED, FROZEN} < set(bench_launch.ON_DEVICE)


def test_the_device_table_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_launch, "in_words", lambda _: "a machine")
    row = {"p25": 1.0, "p50": 1.5, "p75": 2.0}
    given = {"machine": {}, "rounds": 1, "absent": {}, "on_device": {FROZEN: row}}
    bench_launch.print_tables(given)
    assert f"{FROZEN:<43}    1.50    1.00    2.00" in capsys.readouterr().out
