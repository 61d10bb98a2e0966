"""What the virtual devices say they are: attribute snapshots of real ones, in attributes.json."""

from __future__ import annotations

import json
from importlib.resources import files


def attributes_of(cc: tuple[int, int], sm_count: int | None = None) -> dict[str, int]:
    """CUdevice_attribute (without its prefix) -> value; `sm_count` replaces the multiprocessors."""
    snapshots = json.loads((files("pyferrum_kv.virtual") / "attributes.json").read_text("utf-8"))
    name = f"sm_{cc[0]}{cc[1]}"
    if name not in snapshots:
        known = ", ".join(sorted(snapshots))
        raise ValueError(f"VirtualDriver: cc is {cc}; there are snapshots of {known}")
    attributes: dict[str, int] = snapshots[name]["attributes"]
    if sm_count is not None:
        if sm_count < 1:
            raise ValueError(f"VirtualDriver: sm_count is {sm_count}; wanted at least 1")
        attributes["MULTIPROCESSOR_COUNT"] = sm_count
    return attributes
