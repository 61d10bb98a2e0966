"""Whether a bundle on disk is what its sources give; writes nothing.

Three strengths, by what the machine has: source hashes need nothing, the PTX needs NVRTC, and the
register counts need ptxas. `assemble` asks another ptxas, an older one say, to take every PTX.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyferrum_kv.build.builder import Built, Progress, stale_files
from pyferrum_kv.build.ptxas import Ptxas, served
from pyferrum_kv.build.sources import sources_of
from pyferrum_kv.bundle.files import MANIFEST
from pyferrum_kv.bundle.manifest import Variant, read_manifest
from pyferrum_kv.bundle.ptx_bundle import PtxBundle
from pyferrum_kv.errors import BuildError, BundleCorrupt

REBUILD = "run python build_ptx.py"


def check_sources(folder: Path, sources: Sequence[Path]) -> list[str]:
    """Compare source hashes with the manifest; returns what differs, a line each."""
    try:
        manifest = read_manifest((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return [f"{folder / MANIFEST} is missing; {REBUILD}"]
    except BundleCorrupt as error:
        return [f"{error}; {REBUILD}"]
    recorded = {module.name: module.sources for module in manifest.modules}
    problems = [
        f"{source.name} is not in {folder.name}/{MANIFEST}; {REBUILD}"
        for source in sources
        if source.stem not in recorded
    ]
    for source in sources:
        now = {entry.path: entry.sha256 for entry in sources_of(source)}
        was = {entry.path: entry.sha256 for entry in recorded.get(source.stem, ())}
        problems += [
            f"{path} changed since {folder.name}/{source.stem}.*.ptx was built; {REBUILD}"
            for path in sorted(now.keys() | was.keys())
            if was and now.get(path) != was.get(path)
        ]
    stems = {source.stem for source in sources}
    problems += [
        f"{folder.name}/{MANIFEST} has module {name}, whose source is gone; {REBUILD}"
        for name in recorded
        if name not in stems
    ]
    return problems


def check(built: Built, folder: Path) -> list[str]:
    """Compare a fresh build with the files on disk; returns what differs, a line each."""
    problems: list[str] = []
    for name, content in sorted(built.files.items()):
        path = folder / name
        if not path.is_file():
            problems.append(f"{folder.name}/{name} is missing; {REBUILD}")
        elif name == MANIFEST:
            problems += _manifest(built, path)
        elif path.read_bytes() != content:
            problems.append(f"{folder.name}/{name} is not what its source gives; {REBUILD}")
    problems += [
        f"{folder.name}/{name} belongs to no source; {REBUILD}"
        for name in stale_files(folder, built.files)
    ]
    return problems


def assemble(folder: Path, ptxas: Ptxas, progress: Progress) -> list[str]:
    """Assemble every PTX of a bundle for each architecture that this ptxas knows.

    Returns what failed, a line each.
    """
    bundle = PtxBundle.open(folder)
    problems = bundle.verify()
    jobs = [
        (variant, arch)
        for module in bundle.manifest.modules
        for variant in module.variants
        for arch in served(variant.target)
        if ptxas.knows(arch)
    ]

    def one(job: tuple[Variant, str]) -> str:
        variant, arch = job
        progress(f"{variant.file} for {arch}")
        try:
            ptxas.assemble(variant.file, bundle.ptx(variant.module, variant.target), arch)
        except (BuildError, BundleCorrupt) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems += [problem for problem in pool.map(one, jobs) if problem]
    return problems


def _manifest(built: Built, path: Path) -> list[str]:
    """Compare manifests; a build without ptxas leaves the measured usage out of the comparison."""
    measured = any(v.ptxas_version for m in built.manifest.modules for v in m.variants)
    found = path.read_bytes()
    if measured:
        same = found == built.files[MANIFEST]
    else:
        try:
            same = _without_usage(found) == _without_usage(built.files[MANIFEST])
        except (ValueError, KeyError, TypeError):
            same = False
    return (
        [] if same else [f"{path.parent.name}/{MANIFEST} is not what the sources give; {REBUILD}"]
    )


def _without_usage(manifest: bytes) -> object:
    document = json.loads(manifest)
    for module in document["modules"]:
        for variant in module["variants"]:
            variant["usage"], variant["ptxas_version"] = [], ""
    return document
