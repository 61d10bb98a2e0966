"""The PTX bundle as plain data: where it lies, what it holds, which variant serves which device.

Read in this order: files, fields, manifest, ptx_bundle, driver_versions, select.
"""

from pyferrum_kv.bundle.files import bundle_files
from pyferrum_kv.bundle.manifest import Manifest, Module, Usage, Variant
from pyferrum_kv.bundle.ptx_bundle import PtxBundle
from pyferrum_kv.bundle.select import Verdict, select, verdict

__all__ = [
    "Manifest",
    "Module",
    "PtxBundle",
    "Usage",
    "Variant",
    "Verdict",
    "bundle_files",
    "select",
    "verdict",
]
