"""Which modules of a bundle on disk need no compiling: a build would give the same again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyferrum_kv.build.sources import sources_of
from pyferrum_kv.bundle.manifest import Module
from pyferrum_kv.bundle.ptx_bundle import PtxBundle
from pyferrum_kv.errors import BundleCorrupt
from pyferrum_kv.nvrtc import WANTED_WHEEL


def unchanged(
    earlier: PtxBundle, source: Path, flags: Mapping[str, tuple[str, ...]], ptxas_version: str
) -> Module | None:
    """Return the earlier module of a source; None: it has to be built.

    flags:   target -> NVRTC's command line
    """
    module = earlier.modules.get(source.stem)
    targets = {v.target for other in earlier.manifest.modules for v in other.variants}
    if module is None or targets != flags.keys() or module.sources != sources_of(source):
        return None
    for variant in module.variants:
        made_with = (variant.options, variant.nvrtc_version, variant.ptxas_version)
        if made_with != (flags[variant.target], WANTED_WHEEL, ptxas_version):
            return None
        try:
            earlier.ptx(module.name, variant.target)
        except BundleCorrupt:
            return None
    return module
