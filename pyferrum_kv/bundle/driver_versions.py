"""Which CUDA version a driver must report to read a PTX ISA version, and which branch brings it.

A table of our own: the bindings' table ends where the bindings were made. PTX is not covered by
CUDA's minor-version compatibility, so the version must be met exactly or be newer.
"""

from __future__ import annotations

Version = tuple[int, int]

# PTX ISA -> (CUDA version that cuDriverGetVersion must report, driver branch or "")
_DRIVERS: dict[Version, tuple[Version, str]] = {
    (7, 0): ((11, 0), "R450"),
    (7, 1): ((11, 1), "R455"),
    (7, 2): ((11, 2), "R460"),
    (7, 3): ((11, 3), "R465"),
    (7, 4): ((11, 4), "R470"),
    (7, 5): ((11, 5), "R495"),
    (7, 6): ((11, 6), "R510"),
    (7, 7): ((11, 7), "R515"),
    (7, 8): ((11, 8), "R520"),
    (8, 0): ((12, 0), "R525"),
    (8, 1): ((12, 1), "R530"),
    (8, 2): ((12, 2), "R535"),
    (8, 3): ((12, 3), "R545"),
    (8, 4): ((12, 4), "R550"),
    (8, 5): ((12, 5), "R555"),
    (8, 6): ((12, 7), "R565"),
    (8, 7): ((12, 8), "R570"),
    (8, 8): ((12, 9), "R575"),
    (9, 0): ((13, 0), "R580"),
    (9, 1): ((13, 1), "R590"),
    (9, 2): ((13, 2), ""),
    (9, 3): ((13, 3), ""),
    (9, 4): ((13, 4), ""),
    (9, 5): ((13, 5), ""),
}
_BRANCHES = {cuda: branch for cuda, branch in _DRIVERS.values() if branch}


def min_driver(ptx_version: Version) -> Version | None:
    """Return the CUDA version a driver must report for this PTX ISA; None: newer than the table."""
    if ptx_version < (7, 0):
        return (11, 0)
    known = _DRIVERS.get(ptx_version)
    return known[0] if known else None


def in_words(cuda: Version) -> str:
    """Return "12.0 (R525)", or "13.4" where the branch is not known."""
    branch = _BRANCHES.get(cuda)
    return f"{cuda[0]}.{cuda[1]} ({branch})" if branch else f"{cuda[0]}.{cuda[1]}"


def from_code(driver_version: int) -> Version:
    """Split what cuDriverGetVersion reports: 12040 -> (12, 4)."""
    return driver_version // 1000, driver_version % 1000 // 10
