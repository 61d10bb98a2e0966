"""The files of a module: a .cu and the headers that it includes by quotes, with their hashes."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from pyferrum_kv.build.macros import includes
from pyferrum_kv.bundle.manifest import Source
from pyferrum_kv.errors import BuildError


def source_files(source: Path) -> dict[str, Path]:
    """Return include name -> path for every header that a source includes by quotes, any depth."""
    found: dict[str, Path] = {}
    waiting = [source]
    while waiting:
        for name in includes(waiting.pop().read_text(encoding="utf-8")):
            path = source.parent / name
            if name not in found:
                if not path.is_file():
                    raise BuildError(f'{shown(source)}: #include "{name}" is not in {path.parent}')
                found[name] = path
                waiting.append(path)
    return dict(sorted(found.items()))


def sources_of(source: Path) -> tuple[Source, ...]:
    """Return path and sha256 of a source and its headers, as the manifest records them."""
    return tuple(
        Source(shown(path), sha256(path.read_bytes()).hexdigest())
        for path in (source, *source_files(source).values())
    )


def shown(path: Path) -> str:
    """Return "kernels/x.cu": folder and name, whatever lies above."""
    return f"{path.resolve().parent.name}/{path.name}"
