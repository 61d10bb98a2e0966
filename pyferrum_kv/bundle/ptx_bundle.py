"""PtxBundle: a folder of PTX files and their manifest, each file verified on first read."""

from __future__ import annotations

import difflib
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pyferrum_kv.bundle.files import MANIFEST, bundle_files
from pyferrum_kv.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    Module,
    Variant,
    read_manifest,
)
from pyferrum_kv.errors import BundleCorrupt, BundleNotFound, EntryNotFound
from pyferrum_kv.ptx_reader import PtxSyntaxError, read_ptx
from pyferrum_kv.signature import Signature

if TYPE_CHECKING:
    from importlib.abc import Traversable


class PtxBundle:
    """A bundle on disk or inside a zip.

    modules: module name -> Module.   entries: entry -> its variants, lowest target first.
    """

    def __init__(self, folder: Traversable, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.modules: dict[str, Module] = {module.name: module for module in manifest.modules}
        self.entries: dict[str, list[Variant]] = {}
        self._signatures: dict[str, Signature] = {}
        for module in manifest.modules:
            for signature in module.entries:
                self._signatures[signature.entry] = signature
                serving = [v for v in module.variants if signature.entry in v.entries]
                self.entries[signature.entry] = sorted(serving, key=lambda v: _number(v.target))
        self._read: dict[tuple[str, str], bytes] = {}

    @classmethod
    def open(cls, folder: str | Path | Traversable) -> PtxBundle:
        """Open the bundle in `folder`; reads and checks the manifest, no PTX yet."""
        place = Path(folder) if isinstance(folder, str) else folder
        try:
            raw = _read_at_most(place, MANIFEST, MAX_MANIFEST_BYTES)
        except OSError:
            raise BundleNotFound(
                f"no {MANIFEST} in {place}; wanted a folder that build_ptx.py has written"
            ) from None
        return cls(place, read_manifest(raw))

    @classmethod
    def default(cls) -> PtxBundle:
        """Return the bundle that this package carries, the same object each time."""
        return _default()

    def signature(self, entry: str) -> Signature:
        """Return an entry's parameters and limits."""
        self._known(entry)
        return self._signatures[entry]

    def variants(self, entry: str) -> list[Variant]:
        """Return the variants that hold an entry, lowest target first."""
        return self.entries[self._known(entry)]

    def is_newer_only(self, entry: str) -> bool:
        """Return whether an entry has no text for the lowest target that others have."""
        lowest = min(_number(variants[0].target) for variants in self.entries.values() if variants)
        return all(_number(variant.target) > lowest for variant in self.variants(entry))

    def ptx(self, module: str, target: str) -> bytes:
        """Return the text of a module for a target, without a NUL; verified on first read."""
        key = (module, target)
        if key not in self._read:
            self._read[key] = self._verified(self._variant(module, target))
        return self._read[key]

    def verify(self) -> list[str]:
        """Read every file and hold its header, entries and parameters against the manifest.

        Returns what is wrong, a line each; an empty list is a sound bundle.
        """
        problems: list[str] = []
        for module in self.manifest.modules:
            for variant in module.variants:
                try:
                    self._agrees(variant, self._verified(variant))
                except BundleCorrupt as problem:
                    problems.append(str(problem))
        return problems

    def __repr__(self) -> str:
        return (
            f"<PtxBundle {self.folder}: {len(self.modules)} modules, {len(self.entries)} entries>"
        )

    def _known(self, entry: str) -> str:
        if entry not in self._signatures:
            close = difflib.get_close_matches(entry, self._signatures, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise EntryNotFound(
                f"no entry {entry!r} in the bundle; it has {', '.join(self._signatures)}{hint}"
            )
        return entry

    def _variant(self, module: str, target: str) -> Variant:
        if module not in self.modules:
            raise EntryNotFound(f"no module {module!r}; the bundle has {', '.join(self.modules)}")
        variants = {variant.target: variant for variant in self.modules[module].variants}
        if target not in variants:
            raise EntryNotFound(f"module {module} has no {target}; it has {', '.join(variants)}")
        return variants[target]

    def _verified(self, variant: Variant) -> bytes:
        """Read a file; size and hash must be the manifest's."""
        try:
            raw = _read_at_most(self.folder, variant.file, variant.size_bytes)
        except OSError as error:
            raise BundleCorrupt(f"{variant.file}: cannot be read: {error}") from None
        if len(raw) != variant.size_bytes:
            found = f"{len(raw)} bytes" if len(raw) < variant.size_bytes else "longer"
            raise BundleCorrupt(
                f"{variant.file}: size_bytes in the manifest is {variant.size_bytes}, "
                f"the file is {found}; reinstall, or run python build_ptx.py"
            )
        digest = sha256(raw).hexdigest()
        if digest != variant.sha256:
            raise BundleCorrupt(
                f"{variant.file}: sha256 in the manifest is {variant.sha256}, the file's is "
                f"{digest}; reinstall, or run python build_ptx.py"
            )
        return raw

    def _agrees(self, variant: Variant, raw: bytes) -> None:
        """Raise BundleCorrupt where the PTX text says something else than the manifest."""
        try:
            ptx = read_ptx(raw.decode())
        except (UnicodeDecodeError, PtxSyntaxError) as error:
            raise BundleCorrupt(f"{variant.file}: {error}") from None
        for name, said, found in (
            ("target", variant.target, ptx.target),
            ("ptx_version", variant.ptx_version, ptx.version),
            ("entries", sorted(variant.entries), sorted(ptx.entries)),
        ):
            if said != found:
                raise BundleCorrupt(f"{variant.file}: {name} is {found}, the manifest says {said}")
        for entry in variant.entries:
            said_list = _layout(self._signatures[entry])
            if (found_list := _layout(ptx.entries[entry])) != said_list:
                raise BundleCorrupt(
                    f"{variant.file}: params of {entry} are {found_list} (offset, bytes, float), "
                    f"the manifest says {said_list}"
                )


@lru_cache(maxsize=1)
def _default() -> PtxBundle:
    return PtxBundle.open(bundle_files())


def _layout(signature: Signature) -> list[tuple[int, int, bool]]:
    """What PTX and manifest can both tell of a parameter: (offset, bytes, is it a float)."""
    return [(p.offset, p.size_bytes, p.kind == "float") for p in signature.params]


def _number(target: str) -> int:
    return int("".join(c for c in target if c.isdigit()))


def _read_at_most(folder: Traversable, name: str, limit: int) -> bytes:
    """Read at most limit + 1 bytes: enough to see that a file is too long."""
    with (folder / name).open("rb") as file:
        content = file.read(limit + 1)
    return bytes(content)
