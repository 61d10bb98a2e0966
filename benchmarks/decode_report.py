"""What bench_decode.py keeps and prints: rows in a JSON file, written after each, and a table."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.decode_goals import (
    LIMIT,
    OURS,
    PEERS,
    best_peer,
    judge,
    part_of_limit,
)
from benchmarks.decode_shapes import Shape

HEADS = {"SDPA fp16": "SDPA 16", "FlashInfer fp16": "FI 16", "FlashInfer fp8": "FI fp8"}


class Report:
    """The rows so far. With a file that exists and `resume`, its rows come first."""

    def __init__(self, path: Path | None, facts: dict[str, Any], *, resume: bool = False) -> None:
        self.path = path
        self.data: dict[str, Any] = {"machine": facts, "rows": [], "crashed": []}
        if resume and path and path.exists():
            self.data |= json.loads(path.read_text())
        if self._trying and self._trying.exists():
            if resume:
                self.data["crashed"].append(json.loads(self._trying.read_text()))
                self.save()
            self._trying.unlink()

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.data["rows"]
        return rows

    @property
    def _trying(self) -> Path | None:
        return self.path.with_suffix(".trying") if self.path else None

    def has(self, set_name: str, shape: Shape) -> bool:
        return any(r["set"] == set_name and r["shape"]["name"] == shape.name for r in self.rows)

    def crashed(self, way: str, shape: Shape) -> bool:
        """Whether this way of a peer took a process down before."""
        return [way, shape.name] in self.data["crashed"]

    def trying(self, way: str, shape: Shape) -> None:
        """Leave a note of what is tried next, should the process not come back from it."""
        if self._trying:
            self._trying.parent.mkdir(parents=True, exist_ok=True)
            self._trying.write_text(json.dumps([way, shape.name]))

    def tried(self) -> None:
        if self._trying:
            self._trying.unlink(missing_ok=True)

    def add(
        self,
        set_name: str,
        shape: Shape,
        figures: dict[str, list[float]],
        absent: dict[str, str],
    ) -> dict[str, Any]:
        """Judge and keep a shape's figures, one a round of every subject or way of a peer."""
        row: dict[str, Any] = {"set": set_name, "shape": shape.as_json(), "us": best_of(figures)}
        row["ways"] = {name: statistics.median(f) for name, f in figures.items()}
        row["spread"] = {name: [min(f), max(f)] for name, f in figures.items()}
        row["absent"] = absent
        before = [r for r in self.rows if r["set"] == set_name]
        row["goals"] = judge(row, before)
        self.rows.append(row)
        self.save()
        return row

    def save(self) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.data, indent=1) + "\n")


def best_of(figures: dict[str, list[float]]) -> dict[str, float]:
    """Medians; of "limit N" and of "peer, way" the best one, under the name before it."""
    us: dict[str, float] = {}
    for name, rounds in figures.items():
        subject = LIMIT if name.startswith("limit ") else name.split(", ")[0]
        us[subject] = min(us.get(subject, float("inf")), statistics.median(rounds))
    return us


def head() -> str:
    peers = "".join(f"{HEADS.get(name, name):>9s}" for name in PEERS)
    return f"{'shape':20s}{'limit':>9s}{'ours':>9s}  of it{peers}  x best  goals"


def line(row: dict[str, Any]) -> str:
    us = row["us"]
    peers = "".join(f"{us[name]:9.1f}" if name in us else f"{'-':>9s}" for name in PEERS)
    best = best_peer(row)
    times = f"{us[best] / us[OURS]:8.2f}" if best else f"{'-':>8s}"
    text = f"{row['shape']['name']:20s}{us[LIMIT]:9.1f}{us[OURS]:9.1f}{part_of_limit(row):7.2f}"
    return f"{text}{peers}{times}  {goals_in_words(row['goals'])}"


def goals_in_words(goals: list[dict[str, Any]]) -> str:
    if not goals:
        return "none"
    missed = [goal for goal in goals if not goal["met"]]
    if not missed:
        return "met: " + ", ".join(f"{g['bound']} {g['wanted']:g} {g['goal']}" for g in goals)
    return "MISSED: " + ", ".join(
        f"{_unflattered(g)} instead of {g['bound']} {g['wanted']:g} {g['goal']}" for g in missed
    )


def _unflattered(goal: dict[str, Any]) -> str:
    """Two digits, rounded to the side on which a missed goal still looks missed."""
    rounded = math.floor if goal["bound"] == ">=" else math.ceil
    return f"{rounded(goal['got'] * 100) / 100:.2f}"


def tail(rows: list[dict[str, Any]]) -> list[str]:
    """How many goals are met, and why peers have no figure, each reason once."""
    goals = [goal for row in rows for goal in row["goals"]]
    lines = [f"{sum(g['met'] for g in goals)} of {len(goals)} goals met"] if goals else []
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for way, why in row["absent"].items():
            reasons.setdefault((way, why), []).append(row["shape"]["name"])
    lines += [f"absent: {way} at {', '.join(at)}: {why}" for (way, why), at in reasons.items()]
    return lines
