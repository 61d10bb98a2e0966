"""Where the virtual device and compute-sanitizer say different things of a mutant."""

from __future__ import annotations

from typing import Any

TOOL_OF = {
    "illegal_address": "memcheck",
    "misaligned": "memcheck",
    "use_after_free": "memcheck",
    "trap": "memcheck",
    "race": "racecheck",
    "in_flight": "racecheck",
    "divergent_barrier": "synccheck",
    "warp_sync": "synccheck",
    "uninitialized": "initcheck",
}
"""What the virtual device reports, and the tool that looks for the same."""

NO_TOOL = {"cta_race", "stale_read", "timeout", "stream_hazard", "leak"}
"""Races between CTAs and stale reads lie in global memory, and racecheck looks at shared memory
alone; no tool looks for threads that wait for ever. The last two are no faults of a kernel."""


def disagreements(row: dict[str, Any]) -> list[str]:
    """A sentence for each tool that reports what the virtual device does not, or the reverse."""
    hardware = row.get("hardware")
    if not isinstance(hardware, dict):  # not run; the row that it stands with is judged
        return []
    told = [kind for kind in row["virtual"] if kind not in NO_TOOL]
    found = []
    for tool in dict.fromkeys(TOOL_OF.values()):
        if tool not in hardware:
            continue
        kinds = [kind for kind in told if TOOL_OF.get(kind) == tool]
        if bool(kinds) != bool(hardware[tool]):
            here = " and ".join(kinds) or "nothing"
            there = "; ".join(hardware[tool]) or "nothing"
            found.append(f"the virtual device reports {here}, {tool} {there}")
    return found
