"""Where the bundle lies: inside an installed wheel, or beside the package in a checkout.

An editable install has no packaged folder, so the second look-up serves it. `build_ptx.py` is asked
for there so that a stray `ptx` folder in site-packages is never taken for ours.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pyferrum_kv.errors import BundleNotFound

if TYPE_CHECKING:
    from importlib.abc import Traversable

MANIFEST = "manifest.json"


def bundle_files() -> Traversable:
    """Return the folder of the bundle that this package carries; it may lie inside a zip."""
    packaged = files("pyferrum_kv") / "ptx"
    if (packaged / MANIFEST).is_file():
        return packaged
    root = Path(__file__).resolve().parents[2]
    if (root / "build_ptx.py").is_file() and (root / "ptx" / MANIFEST).is_file():
        return root / "ptx"
    raise BundleNotFound(
        f"no {MANIFEST} in {packaged} nor in {root / 'ptx'}; "
        "reinstall pyferrum-kv, or run python build_ptx.py in a checkout"
    )
