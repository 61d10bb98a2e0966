"""The kill matrix holds: what is deleted from a kernel is seen, and the kernel itself is clean."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from virtual import kill_matrix
from virtual.kill_verdict import NO_TOOL, TOOL_OF, disagreements
from virtual.mutants import REPRESENTATIVES, mutants, stand_ins

from pyferrum_kv.virtual.report import ReportKind

ENTRIES = tuple(entry for entry in REPRESENTATIVES if not entry.endswith("_d128"))
"""Run here: together they have every wait that any entry has. The table has them all."""


@pytest.fixture(scope="module")
def rows():
    return kill_matrix.virtual_table(ENTRIES)


def test_the_table_has_every_wait_of_every_entry():
    told = {key: row.get("deleted", "") for key, row in kill_matrix.read_table().items()}
    assert told == {mutant.key: mutant.text for mutant, _ in kill_matrix.mutants()}


def test_the_table_in_the_repository_is_what_happens(rows):
    kept = {k: row for k, row in kill_matrix.read_table().items() if k in rows}
    columns = ("deleted", "result", "virtual")  # source lines move with every edit
    told = {key: {c: row.get(c) for c in columns} for key, row in kept.items()}
    now = {key: {c: row.get(c) for c in columns} for key, row in rows.items()}
    assert told == now, "run python tests/virtual/kill_matrix.py --write and look at the difference"


def test_the_kernels_themselves_are_clean():
    unharmed = [row for key, row in kill_matrix.read_table().items() if key.endswith(":none")]
    assert unharmed
    assert all(row["result"] == "same" and not row["virtual"] for row in unharmed)


def test_whatever_is_not_reported_is_explained():
    silent = [
        key
        for key, row in kill_matrix.read_table().items()
        if not key.endswith(":none") and not row["virtual"] and not row.get("explained")
    ]
    assert not silent


def test_nothing_is_explained_that_is_reported():
    """An explanation stays with its number when waits before it come and go."""
    rows = kill_matrix.read_table()
    assert not [key for key, row in rows.items() if row.get("explained") and row["virtual"]]


def test_each_wait_is_run_on_hardware_by_some_entry():
    everyone = [mutant for mutant, _ in mutants()]
    run = {mutant.site for mutant in everyone if mutant.entry in REPRESENTATIVES}
    assert {mutant.site for mutant in everyone} == run
    assert set(stand_ins()) == {mutant.key for mutant in everyone}
    assert set(stand_ins().values()) <= {m.key for m in everyone if m.entry in REPRESENTATIVES}


def test_who_stands_in_has_the_same_verdict():
    rows = kill_matrix.read_table()
    other = [
        (key, stand_in)
        for key, stand_in in stand_ins().items()
        if any(rows[key][column] != rows[stand_in][column] for column in ("result", "virtual"))
    ]
    assert not other


def test_every_bad_input_is_in_the_table():
    faults = Counter(key.split(":")[1] for key in kill_matrix.read_table())
    for fault in ("short shared memory", "bad table entry", "unwritten block"):
        assert faults[fault] == faults["none"] - 2  # all but append and broadcast
    assert {faults[f] for f in ("exited lanes", "bad slot", "unwritten rows")} == {1}


def test_every_kind_of_report_has_a_tool_or_none():
    assert TOOL_OF.keys() | NO_TOOL == set(get_args(ReportKind))
    assert not TOOL_OF.keys() & NO_TOOL


@pytest.mark.parametrize(
    ("virtual", "hardware", "sentences"),
    [
        (["race"], {"racecheck": ["Error: Race"], "memcheck": []}, 0),
        (["race"], {"racecheck": []}, 1),
        ([], {"racecheck": ["Error: Race"], "initcheck": ["Uninitialized"]}, 2),
        (["race"], {"memcheck": []}, 0),  # racecheck has not run yet
        (["cta_race"], {"racecheck": [], "memcheck": []}, 0),
        (["illegal_address"], {"memcheck": ["Invalid"], "racecheck": ["Race"]}, 1),
        (["race"], "as another", 0),
    ],
)
def test_a_disagreement_is_one_of_a_tool(virtual, hardware, sentences):
    assert len(disagreements({"virtual": virtual, "hardware": hardware})) == sentences


def test_hardware_and_the_virtual_device_agree_or_the_table_says_why():
    silent = {
        key: disagreements(row)
        for key, row in kill_matrix.read_table().items()
        if disagreements(row) and not row.get("disagreement")
    }
    assert not silent, "python tests/virtual/kill_matrix.py --explain PATTERN TEXT"


def test_nothing_is_explained_that_agrees():
    rows = kill_matrix.read_table()
    assert not [k for k, row in rows.items() if "disagreement" in row and not disagreements(row)]


def test_a_reason_goes_to_the_rows_that_disagree():
    rows = {
        "d64:wait 1": {"virtual": ["race"], "hardware": {"racecheck": []}},
        "d64:wait 2": {"virtual": ["race"], "hardware": {"racecheck": ["Race"]}},
        "d64:wait 3": {"virtual": [], "hardware": {"racecheck": ["Race"]}},
    }
    assert kill_matrix.explain(rows, "wait [12]", "why") == 0
    assert [row.get("disagreement") for row in rows.values()] == ["why", None, None]
    assert kill_matrix.explain(rows, "wait 2", "why") == 1
