"""The decode benchmark without a GPU: its shapes, its goals, its report, and a run in small."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyferrum_kv import CudaContext
from pyferrum_kv.virtual import VirtualDriver

# No wheel has the benchmarks. At the end of the path, so that an installed pyferrum_kv comes first.
sys.path.append(str(Path(__file__).parents[2]))
bench = importlib.import_module("benchmarks.bench_decode")
build = importlib.import_module("benchmarks.decode_peers_build")
goals = importlib.import_module("benchmarks.decode_goals")
ours = importlib.import_module("benchmarks.decode_ours")
plot = importlib.import_module("benchmarks.plot_decode")
replay = importlib.import_module("benchmarks.replay")
reports = importlib.import_module("benchmarks.decode_report")
shapes = importlib.import_module("benchmarks.decode_shapes")


def row(name: str, set_name: str = "goals", **us: float) -> dict[str, Any]:
    """A row of figures as the report keeps it; FlashInfer fp16 is spelt fi16 and so on."""
    names = {"fi16": "FlashInfer fp16", "fi8": "FlashInfer fp8", "xqa": "XQA fp8"}
    figures = {names.get(key, key): value for key, value in us.items()}
    return {"set": set_name, "shape": shapes.BY_NAME[name].as_json(), "us": figures}


def verdicts(judged: list[dict[str, Any]]) -> dict[str, tuple[float, bool]]:
    return {goal["goal"]: (goal["wanted"], goal["met"]) for goal in judged}


def test_the_thirteen_shapes_of_the_goals_read_what_the_design_says() -> None:
    megabytes = {s.name: s.num_bytes / 1e6 for s in shapes.SETS["goals"]}
    assert len(megabytes) == 13
    for name, wanted in {"g4_b1_1k": 2.1, "g4_b256_8k": 4360, "g8_d64_b64_4k": 277}.items():
        assert megabytes[name] == pytest.approx(wanted, rel=0.02), name
    assert megabytes["g2_d256_b16_4k"] == pytest.approx(270, rel=0.02)


def test_shapes_have_the_group_and_the_head_dim_of_their_name() -> None:
    for shape in shapes.BY_NAME.values():
        assert shape.num_q_heads % shape.num_kv_heads == 0, shape.name
        for part in shape.name.split("_"):
            if part[0] == "g" and part[1:].isdigit():
                assert shape.group == int(part[1:]), shape.name
            if part[0] == "d" and part[1:].isdigit():
                assert shape.head_dim == int(part[1:]), shape.name


def test_a_window_is_all_that_must_be_read() -> None:
    shape = shapes.Shape("w", 8, 2, 64, (100, 3), window_left=9)
    assert shape.visible == 10 + 3
    assert shape.num_bytes == 13 * 2 * 2 * 66 // 16 * 16


def test_the_heat_map_stays_within_its_memory_and_begins_with_the_largest() -> None:
    cells = shapes.heat_map(256)
    assert max(c.num_bytes for c in cells) == cells[0].num_bytes <= shapes.HEAT_BYTES
    assert len(cells) == len(shapes.BATCH_SIZES) * len(shapes.KV_LENS) - 1  # 256 x 32k is left out
    assert len(shapes.heat_map(128)) == len(shapes.BATCH_SIZES) * len(shapes.KV_LENS)


def test_shapes_and_sets_are_chosen_once_each() -> None:
    picked = bench.chosen(["skew_32k", "skew_32k"], ["goals", "more"])
    assert picked[0] == ("more", shapes.BY_NAME["skew_32k"])
    assert len(picked) == len(set(picked)) == len(shapes.SETS["goals"] + shapes.SETS["more"])


def test_commands_take_sets_and_shapes_and_name_what_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = bench.parse(["g4_b1_1k", "--set", "blocks", "--set", "heat", "--head-dim", "96"])
    assert (args.shapes, args.sets, args.head_dims) == (["g4_b1_1k"], ["blocks", "heat"], [96])
    assert bench.parse([]).head_dims == list(shapes.HEAT_HEAD_DIMS)
    with pytest.raises(SystemExit):
        bench.parse(["g4_b1_2k"])
    assert "no shape g4_b1_2k; wanted one of g4_b1_1k, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "limit", "part"),
    [
        ("g4_b64_2k", 63.0, 0.92),
        ("g8_d64_b64_4k", 64.0, 0.88),
        ("g4_b16_4k", 32.0, 0.85),
        ("g16_b32_4k", 17.3, 0.75),
        ("skew_128k", 93.0, 0.80),
    ],
)
def test_the_part_of_the_limit_that_is_asked(name: str, limit: float, part: float) -> None:
    just, short = limit / part - 0.001, limit / part + 0.001
    set_name = "more" if name.startswith("skew") else "goals"
    for us, met in ((just, True), (short, False)):
        judged = goals.judge(row(name, set_name, ours=us, limit=limit))
        assert verdicts(judged) == {"of the limit": (part, met)}


def test_the_shortest_shapes_are_asked_for_microseconds() -> None:
    assert verdicts(goals.judge(row("g4_b1_1k", ours=5.1, limit=2.2))) == {"us": (5.0, False)}
    assert verdicts(goals.judge(row("g4_b1_8k", ours=9.0, limit=5.6))) == {"us": (9.0, True)}


def test_the_best_peer_counts_and_flashinfer_only_from_thirty_microseconds() -> None:
    judged = goals.judge(row("g4_b64_2k", ours=75.0, limit=63.0, fi16=136.0, xqa=74.0))
    assert verdicts(judged)["x FlashInfer fp16"] == (1.8, True)
    assert verdicts(judged)["x the best peer (XQA fp8)"] == (1.0, False)
    judged = goals.judge(row("g16_b32_4k", ours=20.0, limit=17.0, fi16=21.0))
    assert "x FlashInfer fp16" not in verdicts(judged)
    assert verdicts(judged)["x the best peer (FlashInfer fp16)"] == (1.0, True)


def test_blocks_are_held_against_blocks_of_sixteen() -> None:
    sixteen = row("g4_b64_2k_block16", "blocks", ours=70.0, limit=66.0)
    slow = goals.judge(row("g4_b64_2k_block64", "blocks", ours=74.0, limit=66.0), [sixteen])
    assert verdicts(slow)["x blocks of 16"] == (1.05, False)
    small = goals.judge(row("g4_b64_2k_block1", "blocks", ours=131.0, limit=66.0), [sixteen])
    assert verdicts(small) == {"of the limit": (0.5, True)}


def test_growth_is_held_against_the_next_smaller_of_its_series() -> None:
    before = [
        row("one_64k", "growth", ours=40.0, limit=33.0),
        row("batch_16_2k", "growth", ours=24.0, limit=17.0),
    ]
    good = goals.judge(row("one_256k", "growth", ours=160.0, limit=125.0), before)
    bad = goals.judge(row("one_256k", "growth", ours=170.0, limit=125.0), before)
    assert verdicts(good) == {"x growth of size": (1.05, True)}
    assert verdicts(bad) == {"x growth of size": (1.05, False)}
    assert goals.judge(before[0]) == []


def test_the_best_grid_and_the_best_way_stand_for_limit_and_peer() -> None:
    us = reports.best_of(
        {
            "ours": [3.0, 1.0, 2.0],
            "limit 1": [1.5],
            "limit 8": [1.0],
            "FlashInfer fp8, tensor cores": [5.0],
            "FlashInfer fp8, CUDA cores": [4.0],
        }
    )
    assert us == {"ours": 2.0, "limit": 1.0, "FlashInfer fp8": 4.0}


def test_a_report_names_what_is_missed_and_who_is_absent(tmp_path: Path) -> None:
    report = reports.Report(tmp_path / "new" / "r.json", {"device": "none"})
    shape = shapes.BY_NAME["g4_b256_8k"]
    made = report.add(
        "goals", shape, {"ours": [1044.0], "limit 1": [960.0]}, {"XQA fp8": "not there"}
    )
    assert "0.91 instead of >= 0.92 of the limit" in reports.line(made)  # never "0.92 instead of"
    assert len(reports.head().split("goals")[0]) == len(reports.line(made).split("MISSED")[0])
    assert reports.tail(report.rows) == [
        "0 of 1 goals met",
        "absent: XQA fp8 at g4_b256_8k: not there",
    ]
    assert json.loads(report.path.read_text())["rows"][0]["us"]["ours"] == 1044.0


def test_a_report_goes_on_where_a_process_ended(tmp_path: Path) -> None:
    path, shape = tmp_path / "r.json", shapes.BY_NAME["g4_b1_1k"]
    first = reports.Report(path, {})
    first.add("goals", shape, {"ours": [5.0], "limit 1": [2.0]}, {})
    first.trying("XQA fp8", shapes.BY_NAME["g4_b1_8k"])  # and the process is gone
    again = reports.Report(path, {}, resume=True)
    assert again.has("goals", shape)
    assert again.crashed("XQA fp8", shapes.BY_NAME["g4_b1_8k"])
    assert not again.crashed("XQA fp8", shape)
    third = reports.Report(path, {}, resume=True)  # the note is gone, what it said is kept
    assert third.crashed("XQA fp8", shapes.BY_NAME["g4_b1_8k"])
    assert reports.Report(path, {}).rows == []


def test_a_process_may_end_before_its_first_figures(tmp_path: Path) -> None:
    path, shape = tmp_path / "r.json", shapes.BY_NAME["g4_b1_1k"]
    reports.Report(path, {}).trying("XQA fp8", shape)
    assert reports.Report(path, {}, resume=True).crashed("XQA fp8", shape)
    reports.Report(path, {}).trying("XQA fp8", shape)
    assert not reports.Report(path, {}).crashed("XQA fp8", shape)  # a new start knows nothing of it


@pytest.mark.parametrize("kv_lens", [(64, 64), (33, 1, 64)])
def test_a_table_uses_every_block_once(kv_lens: tuple[int, ...]) -> None:
    shape = shapes.Shape("t", 4, 1, 64, kv_lens, block_size=5)
    table = ours.block_table(shape)
    used = np.concatenate([table[b, :n] for b, n in enumerate(shape.blocks)])
    assert sorted(used) == list(range(sum(shape.blocks)))
    assert not np.array_equal(used, np.sort(used))


def test_subjects_take_turns_and_the_first_round_is_not_counted() -> None:
    called: list[str] = []

    def subject(name: str) -> float:
        called.append(name)
        return float(len(called))

    us = replay.in_turn({n: lambda n=n: subject(n) for n in "ab"}, 2)
    assert called == ["a", "b"] * 3
    assert us == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_the_first_error_of_a_module_is_found_among_the_others() -> None:
    log = [
        "[1/4, 2.0 s] nvcc -c x.cu",
        "FAILED: /x/cached_ops/other/x.o",
        "x.cu(3): error: one",
        "FAILED: /x/cached_ops/mine/y.o",
        "nvcc --long -c y.cu",
        "y.cu(7): error: two",
    ]
    assert build.first_error(log, "mine") == "y.cu(7): error: two"
    assert build.first_error(log, "third") == "ninja stopped before it"


def test_shapes_that_a_peer_does_not_serve_are_refused_with_the_reason() -> None:
    with pytest.raises(build.Absent, match="head_dim 80"):
        build.flashinfer_spec(shapes.BY_NAME["g4_d80_b32_4k"], "fp16", True)
    with pytest.raises(build.Absent, match="7 query heads"):
        build.flashinfer_spec(shapes.BY_NAME["g7_b32_4k"], "fp16", False)
    with pytest.raises(build.Absent, match="blocks of 5"):
        build.xqa_spec(shapes.BY_NAME["g4_b64_2k_block5"])
    with pytest.raises(build.Absent, match="lse"):
        build.xqa_spec(shapes.BY_NAME["g4_b16_4k_window_lse"])


def test_without_matplotlib_the_drawing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    data = {"machine": {"device": "none"}, "rows": [row("g4_b64_2k", ours=70.0, limit=63.0)]}
    with pytest.raises(plot.NoMatplotlib, match=r"pip install 'pyferrum-kv\[bench\]'"):
        plot.draw(data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("further", [{}, {"block_size": 5, "dtype": "bfloat16", "lse": True}])
def test_a_run_in_small(further: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "CTAS_AN_SM", (1,))
    shape = shapes.Shape("small", 2, 1, 64, (20, 7), **further)
    ctx = CudaContext.new(0, driver=VirtualDriver())
    with ctx, ctx.new_stream() as stream:
        arena = ours.Arena(stream)
        subject = ours.Ours(ctx, arena, shape, 2 * shape.num_bytes)
        assert subject.calls == 2
        us = replay.in_turn(subject.timers(), 1)
        assert set(us) == {"ours", "limit 1"}
        assert all(math.isfinite(figure) for figures in us.values() for figure in figures)
        subject.close()
        arena.close()
    ctx.close()
