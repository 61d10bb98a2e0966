"""The runs under compute-sanitizer, with a program in its place that reports what it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from virtual import kill_hardware, kill_matrix
from virtual.kill_hardware import Runner, Task, outcome_of, reports_of, tasks_of

SANITIZER = """\
#!{python}
import json, os, subprocess, sys, time
if "--help" in sys.argv:
    print("  --launch-timeout arg\\n  --print-limit arg (=100)\\n --port arg")
    raise SystemExit
if "--version" in sys.argv:
    print("NVIDIA (R) Compute Sanitizer\\nVersion 2099.1.0.0 (build 1)")
    raise SystemExit
tool = sys.argv[sys.argv.index("--tool") + 1]
known = {{"--tool", "--port", "--launch-timeout", "--print-limit"}}
mine = sys.argv[1 : sys.argv.index(sys.executable)]
assert {{word for word in mine if word.startswith("--")}} <= known, mine
if tool == "memcheck" and os.environ.get("SLEEP"):
    time.sleep(60)
print("========= COMPUTE-SANITIZER", flush=True)
child = subprocess.run(sys.argv[sys.argv.index(sys.executable) :])
if tool == "synccheck":
    print("========= Barrier error detected. Divergent thread(s) in warp")
    print("=========     at broadcast__exited_lanes+0x90 in it.cu:3")
    print("=========     by thread (0,0,0) in block (0,0,0)")
    print("=========")
print("========= ERROR SUMMARY: 1 error")
"""

REPORTS = """\
========= COMPUTE-SANITIZER
["RUN", "decode:wait 1"]
========= Error: Race reported between Write access at decode__wait_1+0x1f0 in tile.cuh:97
=========     and Read access at decode__wait_1+0x2a0 in tile.cuh:101 [96 hazards]
=========
["RESULT", "decode:wait 1", "same"]
["RUN", "decode:wait 12"]
========= Invalid __global__ read of size 4 bytes
=========     at decode__wait_12()+0x40 in tile.cuh:50
=========     by thread (0,0,0) in block (0,0,0)
=========     Address 0x7f0000000000 is out of bounds
========= Invalid __global__ read of size 4 bytes
=========     at decode__wait_12()+0x60 in tile.cuh:51
=========     by thread (0,0,0) in block (0,0,0)
=========
========= Warning: Race reported between Read access at decode__wait_3():0xf0 in tile.cuh:9
=========     and Write access at decode__wait_3():0x2a0 in tile.cuh:11 [1 hazard]
=========
========= Program hit CUDA_ERROR_ILLEGAL_ADDRESS (error 700) on CUDA API call to cuStreamSync
=========     Saved host backtrace up to driver entry point at error
========= ERROR SUMMARY: 3 errors
"""
SYMBOLS = {f"decode__wait_{n}": f"decode:wait {n}" for n in (1, 2, 3, 12)}
KEYS = ("decode:wait 1", "decode:wait 12", "decode:wait 2")


def test_reports_find_their_mutant():
    assert reports_of(REPORTS, SYMBOLS) == {
        "decode:wait 1": ["Error: Race reported between Write access at tile.cuh:97"],
        "decode:wait 12": ["Invalid __global__ read of size #"],
        "decode:wait 3": ["Warning: Race reported between Read access at tile.cuh:9"],
    }
    assert reports_of("", SYMBOLS) == {}


def test_a_mutant_that_ends_its_process_leaves_the_rest_to_another():
    outcome = outcome_of(Task("memcheck", KEYS), REPORTS, SYMBOLS)
    assert outcome.results == {"decode:wait 1": "same", "decode:wait 12": "crash"}
    assert outcome.reports["decode:wait 12"] == ["Invalid __global__ read of size #"]
    assert outcome.left == ("decode:wait 2",)
    assert kill_hardware._rest(outcome) == [Task("memcheck", ("decode:wait 2",))]


def test_a_mutant_that_its_process_waited_for_too_long_hangs():
    output = '["RUN", "decode:wait 1"]\nTimeout (0:00:40)!\nThread 0x1 (most recent call first):\n'
    outcome = outcome_of(Task("racecheck", KEYS), output, SYMBOLS)
    assert outcome.results == {"decode:wait 1": "hang"}
    assert outcome.left == KEYS[1:]


def test_a_process_that_never_began_is_not_tried_for_ever():
    outcome = outcome_of(Task("racecheck", KEYS), "no GPU here\n", SYMBOLS)
    assert (outcome.reports, outcome.left, kill_hardware._rest(outcome)) == ({}, (), [])


def test_reports_that_were_cut_are_asked_for_one_by_one():
    output = REPORTS + "========= ERROR SUMMARY: 9 errors were not printed. Use --print-limit\n"
    outcome = outcome_of(Task("memcheck", KEYS), output, SYMBOLS)
    assert [task.keys for task in kill_hardware._rest(outcome)] == [(key,) for key in KEYS]
    alone = outcome_of(Task("memcheck", KEYS[:1]), output, SYMBOLS)
    assert kill_hardware._rest(alone) == []


def test_what_faults_or_is_noisy_runs_alone():
    keys = [f"a:wait {n}" for n in range(8)] + ["b:none"]
    kinds = {key: ["race"] for key in keys} | {"a:wait 3": ["illegal_address"]}
    tasks = [task.keys for task in tasks_of("memcheck", keys, kinds)]
    assert tasks[0] == ("a:wait 3",)
    assert [len(task) for task in tasks] == [1, 6, 1, 1]
    assert sorted(key for task in tasks for key in task) == keys


@pytest.fixture
def sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PYFERRUM_KV_DRIVER", "virtual")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return str(program)


@pytest.mark.slow
def test_hardware_columns_are_written_and_gone_on_with(sanitizer: str, tmp_path: Path) -> None:
    table = tmp_path / "out" / "table.json"
    table.parent.mkdir()
    rows = kill_matrix.read_table()
    for row in rows.values():
        row.pop("hardware", None)
        row.pop("disagreement", None)
    table.write_text(json.dumps(rows))
    command = [sys.executable, kill_matrix.__file__, "--compute-sanitizer", sanitizer]
    command += ["--table", str(table), "--entries", "broadcast", "--logs", str(table.parent)]

    def run(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False, timeout=100
        )
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    status, said = run("--tools", "memcheck,racecheck")
    assert (status, said.count("of memcheck to"), said.count("of synccheck to")) == (0, 2, 0)
    row = json.loads(table.read_text())["broadcast:exited lanes"]["hardware"]
    assert (row["memcheck"], row["racecheck"]) == ([], [])
    assert "virtual" in row["device"]
    assert row["sanitizer"] == "2099.1.0.0"
    assert row["result"] == "launch_failed"  # what the virtual device ends its context with
    status, said = run()
    assert (status, said.count("of memcheck to"), said.count("of synccheck to")) == (0, 0, 2)
    rows = json.loads(table.read_text())
    row = rows["broadcast:exited lanes"]["hardware"]
    assert row["synccheck"] == ["Barrier error detected. Divergent thread(s) in warp"]
    assert rows["broadcast:none"]["hardware"]["synccheck"] == []
    assert rows["broadcast:none"]["hardware"]["result"] == "same"
    assert rows.keys() == kill_matrix.read_table().keys()
    assert (table.parent / "synccheck.log").is_file()
    status, said = run("--again", "--tools", "racecheck", "--budget", "0.01")
    assert status == 1
    assert "run again to go on" in said


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("")
    with pytest.raises(SystemExit, match="chmod"):
        Runner(str(tmp_path / "it"), lambda _: None, workers=1, stall_s=1)


@pytest.mark.slow
def test_a_sanitizer_that_says_nothing_is_ended(
    sanitizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLEEP", "1")
    outcomes: list[kill_hardware.Outcome] = []
    runner = Runner(sanitizer, outcomes.append, workers=1, stall_s=0.1)
    start = time.monotonic()
    try:
        assert runner.run([Task("memcheck", ("broadcast:none",))], start + 30)
    finally:
        runner.close()
    assert time.monotonic() - start < 10
    assert [outcome.results for outcome in outcomes] == [{}]
