"""The kill matrix holds: what is deleted from a kernel is seen, and the kernel itself is clean."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kill_matrix

ENTRIES = ("paged_decode_attention_int8", "paged_decode_attention_int8_d64_any_block", "broadcast")
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


SANITIZER_OUTPUT = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at decode__wait_1+0x1f0 in tile.cuh:97
=========     and Read access at decode__wait_1+0x2a0 in tile.cuh:101 [96 hazards]
=========
========= Invalid __global__ read of size 4 bytes
=========     at decode__wait_12+0x40 in tile.cuh:50
=========     by thread (0,0,0) in block (0,0,0)
=========     Address 0x7f0000000000 is out of bounds
=========
RESULTS {"decode:wait 1": "same"}
"""


def test_reports_of_compute_sanitizer_find_their_mutant():
    symbols = {"decode__wait_1": "decode:wait 1", "decode__wait_12": "decode:wait 12"}
    found = kill_matrix._reports(SANITIZER_OUTPUT, symbols)
    assert [len(found[key]) for key in symbols.values()] == [1, 1]
    assert found["decode:wait 1"][0].startswith("Error: Race reported")
    assert found["decode:wait 12"] == ["Invalid __global__ read of size #"]
    assert kill_matrix._results(SANITIZER_OUTPUT) == {"decode:wait 1": "same"}


def test_hardware_and_the_virtual_device_agree_or_the_table_says_why():
    disagreeing = []
    for key, row in kill_matrix.read_table().items():
        hardware = row.get("hardware")
        if not isinstance(hardware, dict):
            continue
        seen = any(hardware.get(tool) for tool in kill_matrix.TOOLS)
        if seen != bool(row["virtual"]) and not row.get("explained"):
            disagreeing.append(key)
    assert not disagreeing
