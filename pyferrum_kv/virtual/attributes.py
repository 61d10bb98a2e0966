"""What the virtual devices say they are: snapshots of real ones, in attributes.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a device answered when tests/virtual/snapshot.py asked, or its published figures."""

    attributes: dict[str, int]  # CUdevice_attribute without its prefix -> value
    limits: dict[str, int]  # CUlimit -> value in a new context
    stream_priorities: tuple[int, int]  # least, greatest


def snapshot_of(cc: tuple[int, int], sm_count: int | None = None) -> Snapshot:
    """The snapshot of a compute capability; `sm_count` replaces its multiprocessors."""
    text = (files("pyferrum_kv.virtual") / "attributes.json").read_text("utf-8")
    snapshots, name = json.loads(text), f"sm_{cc[0]}{cc[1]}"
    if name not in snapshots:
        known = ", ".join(sorted(snapshots))
        raise ValueError(f"VirtualDriver: cc is {cc}; there are snapshots of {known}")
    found = snapshots[name]
    if sm_count is not None:
        if sm_count < 1:
            raise ValueError(f"VirtualDriver: sm_count is {sm_count}; wanted at least 1")
        found["attributes"]["MULTIPROCESSOR_COUNT"] = sm_count
    least, greatest = found["stream_priorities"]
    return Snapshot(found["attributes"], found["limits"], (least, greatest))
