"""Compile sources into a bundle: PTX for each target, and the manifest that describes it.

The same sources give the same bytes wherever they are built: fixed names in line information,
headers kept in memory, a pinned NVRTC, and nothing of the machine in the manifest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from pyferrum_kv.build.compilation import compiled_alike
from pyferrum_kv.build.declaration import Declarations, read_declarations
from pyferrum_kv.build.ptxas import Ptxas, served
from pyferrum_kv.build.reuse import unchanged
from pyferrum_kv.build.signatures import signature
from pyferrum_kv.build.sources import shown, source_files, sources_of
from pyferrum_kv.bundle.driver_versions import min_driver
from pyferrum_kv.bundle.files import MANIFEST
from pyferrum_kv.bundle.manifest import Manifest, Module, Usage, Variant
from pyferrum_kv.bundle.ptx_bundle import PtxBundle
from pyferrum_kv.bundle.write import manifest_bytes, new_manifest
from pyferrum_kv.errors import BuildError, NvrtcNotFound
from pyferrum_kv.nvrtc import WANTED_WHEEL, WHEEL, CompiledPtx, CompileOptions
from pyferrum_kv.ptx_reader import PtxInfo, read_ptx
from pyferrum_kv.signature import Signature

ARCHS = ("compute_80", "compute_90")
LINE_FOLDER = "/pyferrum_kv/kernels"  # stands in line information on every machine
NEWEST_PTX = (8, 0)  # every CUDA 12 driver reads it
# Without this guard of its own NVRTC adds some forty unused constants of nv::target to each module.
DEFINES = ("__NV_TARGET_H",)
_RUNTIME_FUNCTIONS = {"vprintf", "__assertfail", "malloc", "free"}

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle in memory: file name -> bytes, manifest.json among them, and NVRTC's warnings."""

    manifest: Manifest
    files: dict[str, bytes]
    warnings: tuple[str, ...]


def build(
    sources: Sequence[Path],
    archs: Sequence[str] = ARCHS,
    ptxas: Ptxas | None = None,
    progress: Progress = lambda step: None,
    earlier: PtxBundle | None = None,
    known: Mapping[str, bytes] | None = None,
) -> Built:
    """Build a bundle from `.cu` files; writes nothing.

    archs:    "compute_80", ...; a PTX file for each that has entries
    ptxas:    measures registers and spills; None leaves `usage` empty
    earlier:  a bundle whose modules are taken over where sources, options and tools are the same
    known:    file name -> PTX on disk, taken for the build's result when a compilation gives it
    """
    files: dict[str, bytes] = {}
    modules: list[Module] = []
    warnings: list[str] = []
    if not sources:
        raise BuildError("build: no .cu file given")
    flags = {_target(arch): _options(arch).flags() for arch in archs}
    ptxas_version = ptxas.version if ptxas else ""
    for source in sorted(sources, key=lambda path: path.stem):
        kept = unchanged(earlier, source, flags, ptxas_version) if earlier else None
        if earlier and kept:
            modules.append(kept)
            files.update({v.file: earlier.ptx(kept.name, v.target) for v in kept.variants})
            continue
        module, texts, logs = _module(source, archs, ptxas, progress, known or {})
        modules.append(module)
        files.update(texts)
        warnings += logs
    manifest = new_manifest(modules)
    files[MANIFEST] = manifest_bytes(manifest)
    return Built(manifest, files, tuple(warnings))


def write(built: Built, folder: Path) -> list[str]:
    """Write what changed, the manifest last; remove PTX that no module owns. Returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    changed: list[str] = []
    for name, content in sorted(built.files.items(), key=lambda file: file[0] == MANIFEST):
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            partial = path.with_name(name + ".partial")
            partial.write_bytes(content)
            os.replace(partial, path)
            changed.append(name)
    for stale in stale_files(folder, built.files):
        (folder / stale).unlink()
        changed.append(stale)
    return changed


def stale_files(folder: Path, files: Iterable[str]) -> list[str]:
    """Return PTX files in a bundle's folder that belong to no module."""
    return sorted({path.name for path in folder.glob("*.ptx")} - set(files))


# ---------------------------------------------------------------- module


def _target(arch: str) -> str:
    return arch.replace("compute_", "sm_")


def _options(arch: str) -> CompileOptions:
    return CompileOptions(arch=arch, defines=DEFINES)


def _module(
    source: Path,
    archs: Sequence[str],
    ptxas: Ptxas | None,
    progress: Progress,
    known: Mapping[str, bytes],
) -> tuple[Module, dict[str, bytes], list[str]]:
    text = source.read_text(encoding="utf-8")
    headers = {
        name: path.read_text(encoding="utf-8") for name, path in source_files(source).items()
    }
    try:
        declared = read_declarations(text, headers)
    except BuildError as error:
        raise BuildError(f"{shown(source)}: {error}") from None
    texts: dict[str, bytes] = {}
    variants: list[Variant] = []
    entries: dict[str, Signature] = {}
    logs: list[str] = []
    for arch in archs:
        target = _target(arch)
        progress(f"{source.stem} {target}")
        options = _options(arch)
        file = f"{source.stem}.{target}.ptx"
        name = f"{LINE_FOLDER}/{source.name}"
        compiled = compiled_alike(text, name, options, headers, known.get(file))
        info = _examined(compiled, target)
        if compiled.log.strip():
            logs.append(compiled.log.strip())
        found = _signatures(shown(source), declared, info)
        if not found:  # all of its entries are for other targets
            continue
        _merge(entries, found)
        texts[file] = compiled.ptx
        variant = _variant(source.stem, target, file, compiled, info, options.flags())
        variants.append(_assembled(variant, compiled.ptx, ptxas, progress) if ptxas else variant)
    if missing := [name for name in declared.entries if name not in entries]:
        raise BuildError(f"{shown(source)}: declared, and in no PTX: {', '.join(missing)}")
    ordered = tuple(entries[name] for name in declared.entries)
    return Module(source.stem, sources_of(source), ordered, tuple(variants)), texts, logs


def _examined(compiled: CompiledPtx, target: str) -> PtxInfo:
    """Read the PTX and refuse what would not load everywhere, or not be the same everywhere."""
    if compiled.nvrtc_version != WANTED_WHEEL:
        raise NvrtcNotFound(
            f"found NVRTC {compiled.nvrtc_version}; wanted {WANTED_WHEEL}, whose bytes the bundle "
            f"holds; pip install {WHEEL}=={WANTED_WHEEL}"
        )
    text = compiled.ptx.decode()
    info = read_ptx(text)
    if info.version > NEWEST_PTX or info.target != target:
        raise BuildError(f"{compiled.name}: PTX is {info.version} for {info.target}")
    for function in sorted(set(_extern_functions(text)) - _RUNTIME_FUNCTIONS):
        raise BuildError(
            f"{compiled.name}: {function} is left unresolved, so the PTX does not load; "
            "use inline asm (NVRTC 12.0 has no builtin for __dp4a and some others)"
        )
    for path in re.findall(r'^\s*\.file\s+\d+\s+"([^"]*)"', text, re.MULTILINE):
        if not path.startswith(LINE_FOLDER + "/"):
            raise BuildError(f"{compiled.name}: line information names {path}, a path of here")
    return info


def _extern_functions(ptx: str) -> list[str]:
    """Return the names of functions that the PTX calls and does not hold."""
    return re.findall(r"\.extern\s+\.func\s+(?:\([^)]*\)\s*)?([\w$]+)", ptx)


def _signatures(source: str, declared: Declarations, info: PtxInfo) -> dict[str, Signature]:
    found: dict[str, Signature] = {}
    for name, ptx in info.entries.items():
        if name not in declared.entries:
            raise BuildError(
                f'{source}: entry {name} is declared nowhere; wanted extern "C" __global__ void'
            )
        try:
            found[name] = signature(declared.entries[name], ptx, declared.typedefs)
        except BuildError as error:
            raise BuildError(f"{source}: {error}") from None
    return found


def _merge(entries: dict[str, Signature], found: dict[str, Signature]) -> None:
    """Add a target's signatures; targets may differ in static shared memory only."""
    for name, new in found.items():
        old = entries.setdefault(name, new)
        shared = max(old.limits.static_shared_bytes, new.limits.static_shared_bytes)
        level = [
            replace(s, limits=replace(s.limits, static_shared_bytes=shared)) for s in (old, new)
        ]
        if level[0] != level[1]:
            raise BuildError(f"{name}: targets differ in parameters or thread limits")
        entries[name] = level[0]


def _variant(
    module: str,
    target: str,
    file: str,
    compiled: CompiledPtx,
    info: PtxInfo,
    options: tuple[str, ...],
) -> Variant:
    driver = min_driver(info.version)
    if driver is None:
        raise BuildError(f"{file}: PTX ISA {info.version} is not in the table of drivers")
    return Variant(
        module=module,
        target=target,
        file=file,
        sha256=sha256(compiled.ptx).hexdigest(),
        size_bytes=len(compiled.ptx),
        ptx_version=info.version,
        min_driver=driver,
        nvrtc_version=compiled.nvrtc_version,
        options=options,
        ptxas_version="",
        entries=tuple(info.entries),
    )


def _assembled(variant: Variant, ptx: bytes, ptxas: Ptxas, progress: Progress) -> Variant:
    def assemble(arch: str) -> tuple[Usage, ...]:
        progress(f"{variant.file} for {arch}")
        return ptxas.assemble(variant.file, ptx, arch)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = [row for rows in pool.map(assemble, served(variant.target)) for row in rows]
    order = {name: i for i, name in enumerate(variant.entries)}
    rows.sort(key=lambda row: order[row.entry])  # stable: architectures stay in their order
    return replace(variant, ptxas_version=ptxas.version, usage=tuple(rows))
