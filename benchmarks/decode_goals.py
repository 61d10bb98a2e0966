"""The goals of decode as data, and what a row of figures says of them: no device.

A row is {"set", "shape": Shape.as_json(), "us": {subject: microseconds}}. The subjects are "ours",
"limit" and the peers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

OURS, LIMIT = "ours", "limit"
FLASHINFER_16 = "FlashInfer fp16"
PEERS = ("SDPA fp16", FLASHINFER_16, "FlashInfer fp8", "XQA fp8")

# A part of the limit, by the limit in microseconds from which it is asked; the first row that fits.
PARTS = ((60.0, 0.92), (28.0, 0.85), (16.0, 0.75))
PARTS_BY_NAME = {"skew_128k": 0.80, "skew_32k": 0.80}
PART_OF_HEAD_DIM_64 = 0.88  # where 0.92 is asked of others
MICROSECONDS = {"g4_b1_1k": 5.0, "g4_b1_8k": 9.0}
PART_OF_SMALL_BLOCKS = 0.5  # of the limit, in blocks of 1, 5 and 8
SPREAD_OF_LARGE_BLOCKS = 1.05  # blocks of 16 and more, against blocks of 16
TIMES_FLASHINFER_16 = 1.8  # where the limit is at least TIMES_FROM
TIMES_FROM = 28.0
GROWTH = 1.05  # time against size, from one size to the next larger


def part_of_limit(row: dict[str, Any]) -> float:
    us: dict[str, float] = row["us"]
    return us[LIMIT] / us[OURS]


def best_peer(row: dict[str, Any]) -> str | None:
    """The fastest of the peers that ran."""
    there = [name for name in PEERS if row["us"].get(name)]
    return min(there, key=lambda name: row["us"][name]) if there else None


def judge(row: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Each goal of this row: {"goal", "bound", "wanted", "got", "met"}; `others` came before it.

    bound: ">=" where `wanted` is the least, "<=" where it is the most.
    """
    shape, us = row["shape"], row["us"]
    verdicts = []

    def add(goal: str, bound: str, wanted: float, got: float) -> None:
        met = got >= wanted if bound == ">=" else got <= wanted
        verdicts.append({"goal": goal, "bound": bound, "wanted": wanted, "got": got, "met": met})

    def at_least(goal: str, wanted: float, got: float) -> None:
        add(goal, ">=", wanted, got)

    def at_most(goal: str, wanted: float, got: float) -> None:
        add(goal, "<=", wanted, got)

    wanted = _wanted_part(row)
    if wanted:
        at_least("of the limit", wanted, part_of_limit(row))
    if shape["name"] in MICROSECONDS:
        at_most("us", MICROSECONDS[shape["name"]], us[OURS])
    if row["set"] == "blocks" and shape["block_size"] > 16:
        sixteen = [o["us"][OURS] for o in others if _is_sixteen(o)]
        if sixteen:
            at_most("x blocks of 16", SPREAD_OF_LARGE_BLOCKS, us[OURS] / sixteen[-1])
    if us[LIMIT] >= TIMES_FROM and us.get(FLASHINFER_16):
        at_least("x FlashInfer fp16", TIMES_FLASHINFER_16, us[FLASHINFER_16] / us[OURS])
    peer = best_peer(row)
    if peer:
        at_least(f"x the best peer ({peer})", 1.0, us[peer] / us[OURS])
    if row["set"] == "growth":
        smaller = _smaller(row, others)
        if smaller:
            size = shape["num_bytes"] / smaller["shape"]["num_bytes"]
            at_most("x growth of size", GROWTH, us[OURS] / smaller["us"][OURS] / size)
    return verdicts


def _wanted_part(row: dict[str, Any]) -> float | None:
    shape, limit = row["shape"], row["us"][LIMIT]
    if shape["name"] in PARTS_BY_NAME:
        return PARTS_BY_NAME[shape["name"]]
    if row["set"] == "blocks" and shape["block_size"] < 16:
        return PART_OF_SMALL_BLOCKS
    if row["set"] in ("growth", "heat") or shape["name"] in MICROSECONDS:
        return None
    for at_least, part in PARTS:
        if limit >= at_least:
            is_64 = shape["head_dim"] == 64 and part == PARTS[0][1]
            return PART_OF_HEAD_DIM_64 if is_64 else part
    return None


def _is_sixteen(row: dict[str, Any]) -> bool:
    return bool(row["set"] == "blocks" and row["shape"]["block_size"] == 16)


def _smaller(row: dict[str, Any], others: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The row before this one in the same series: one sequence, or many of one length."""
    series = row["shape"]["name"].split("_")[0]
    before = [o for o in others if o["shape"]["name"].split("_")[0] == series]
    return before[-1] if before else None
