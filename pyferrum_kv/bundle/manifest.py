"""manifest.json as frozen dataclasses, read from bytes that may be damaged or hostile.

The format is published in docs/manifest.md. A reader of 1.x reads every 1.y: fields and variant
formats that it does not know are passed over, and stay in `Manifest.document` for whoever writes it
back. A format_version of another major number is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from pyferrum_kv.bundle.fields import Fields, parse_json
from pyferrum_kv.bundle.files import MANIFEST
from pyferrum_kv.errors import BundleCorrupt
from pyferrum_kv.ptx_reader import MAX_PARAM_BYTES
from pyferrum_kv.signature import Limits, Param, ParamKind, Signature

FORMAT_VERSION = (1, 0)
MAX_MANIFEST_BYTES = 16 << 20
MAX_PTX_BYTES = 64 << 20

_IDENTIFIER = r"[A-Za-z_$][\w$]{0,254}"
_FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}"  # one name: no separator, no leading dot


@dataclass(frozen=True, slots=True)
class Source:
    """A file that went into a module: the .cu first, then its headers."""

    path: str  # relative to the project, with slashes: "kernels/types.cuh"
    sha256: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What ptxas reported for one entry of a variant, assembled for one architecture."""

    entry: str
    arch: str  # "sm_90"
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    static_shared_bytes: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One PTX file: a module compiled for one target."""

    module: str
    target: str  # "sm_80"
    file: str
    sha256: str
    size_bytes: int
    ptx_version: tuple[int, int]
    min_driver: tuple[int, int]  # the CUDA version a driver must report
    nvrtc_version: str
    options: tuple[str, ...]
    ptxas_version: str  # that made `usage`; "" where nothing was assembled
    entries: tuple[str, ...]
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its entries' signatures, and its variants."""

    name: str
    sources: tuple[Source, ...]
    entries: tuple[Signature, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole manifest. `document` is the JSON it was read from, unknown fields included."""

    format_version: tuple[int, int]
    modules: tuple[Module, ...]
    document: dict[str, Any] = field(repr=False, compare=False)


def read_manifest(raw: bytes, file: str = MANIFEST) -> Manifest:
    """Read and check a manifest; BundleCorrupt names the file and the field."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleCorrupt(f"{file}: is larger than {MAX_MANIFEST_BYTES} bytes")
    top = parse_json(raw, file)
    version = top.version("format_version")
    if version[0] != FORMAT_VERSION[0]:
        raise top.wrong(
            "format_version",
            f"{version[0]}.{version[1]}",
            f"{FORMAT_VERSION[0]}.x, which this pyferrum_kv reads; "
            + ("update pyferrum_kv" if version > FORMAT_VERSION else "rebuild the bundle"),
        )
    modules = tuple(_module(fields) for fields in top.list_of_fields("modules"))
    _distinct(file, "module", (module.name for module in modules))
    _distinct(file, "entry", (entry.entry for module in modules for entry in module.entries))
    _distinct(file, "file", (v.file for module in modules for v in module.variants))
    return Manifest(version, modules, top.value)


def _distinct(file: str, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BundleCorrupt(f"{file}: {what} {name!r} is given twice")
        seen.add(name)


def _module(fields: Fields) -> Module:
    name = fields.text("name", pattern=_FILE_NAME, wanted="a module name")
    entries = tuple(_signature(entry) for entry in fields.list_of_fields("entries"))
    variants = tuple(
        _variant(variant, name, {entry.entry for entry in entries})
        for variant in fields.list_of_fields("variants")
        if variant.text("format") == "ptx"
    )
    _distinct(fields.file, f"{fields.path}: target", (v.target for v in variants))
    sources = tuple(
        Source(source.text("path"), source.sha256("sha256"))
        for source in fields.list_of_fields("sources")
    )
    return Module(name, sources, entries, variants)


def _variant(fields: Fields, module: str, declared: set[str]) -> Variant:
    entries = fields.texts("entries")
    if not declared.issuperset(entries):
        raise fields.wrong("entries", entries, f"names among {sorted(declared)}")
    size_bytes = fields.count("size_bytes")
    if size_bytes > MAX_PTX_BYTES:
        raise fields.wrong("size_bytes", size_bytes, f"at most {MAX_PTX_BYTES}")
    return Variant(
        module=module,
        target=fields.text("target", pattern=r"sm_\d{2,3}[a-z]?", wanted='"sm_NN"'),
        file=fields.text(
            "file", pattern=_FILE_NAME, wanted="the name of a file inside the bundle's folder"
        ),
        sha256=fields.sha256("sha256"),
        size_bytes=size_bytes,
        ptx_version=fields.version("ptx_version"),
        min_driver=fields.version("min_driver"),
        nvrtc_version=fields.text("nvrtc_version"),
        options=fields.texts("options"),
        ptxas_version=fields.text("ptxas_version"),
        entries=entries,
        usage=tuple(_usage(usage) for usage in fields.list_of_fields("usage")),
    )


def _usage(fields: Fields) -> Usage:
    return Usage(
        entry=fields.text("entry"),
        arch=fields.text("arch"),
        registers=fields.count("registers"),
        stack_bytes=fields.count("stack_bytes"),
        spill_store_bytes=fields.count("spill_store_bytes"),
        spill_load_bytes=fields.count("spill_load_bytes"),
        static_shared_bytes=fields.count("static_shared_bytes"),
    )


def _signature(fields: Fields) -> Signature:
    entry = fields.text("name", pattern=_IDENTIFIER, wanted="an entry name")
    params: list[Param] = []
    end = 0
    for item in fields.list_of_fields("params"):
        params.append(_param(item, end))
        end = params[-1].offset + params[-1].size_bytes
    _distinct(fields.file, f"{fields.path}: parameter", (param.name for param in params))
    return Signature(entry, tuple(params), _limits(fields.fields("limits")))


def _param(fields: Fields, start: int) -> Param:
    kind = fields.text("kind")
    if kind not in get_args(ParamKind):
        raise fields.wrong("kind", kind, f"one of {', '.join(get_args(ParamKind))}")
    size, offset = fields.count("size_bytes"), fields.count("offset")
    if size == 0 or (kind == "pointer" and size != 8):
        raise fields.wrong("size_bytes", size, "8 for a pointer, at least 1 for the rest")
    if not start <= offset <= MAX_PARAM_BYTES - size:
        raise fields.wrong(
            "offset", offset, f"{start} or more, and an end at {MAX_PARAM_BYTES} or before"
        )
    return Param(
        name=fields.text("name", pattern=_IDENTIFIER, wanted="a parameter name"),
        kind=cast(ParamKind, kind),
        size_bytes=size,
        offset=offset,
        ctype=fields.text("ctype"),
        pointee=fields.text("pointee"),
        is_const=fields.flag("is_const"),
        shape=fields.text("shape"),
    )


def _limits(fields: Fields) -> Limits:
    required = None
    if fields.value.get("required_threads") is not None:
        x, y, z = fields.counts("required_threads", 3)
        required = (x, y, z)
    dims = {
        dim.text("name"): (dim.count("min"), dim.count("max"), dim.count("step"))
        for dim in fields.list_of_fields("dims")
    }
    return Limits(
        max_threads=fields.optional_count("max_threads"),
        required_threads=required,
        static_shared_bytes=fields.count("static_shared_bytes"),
        max_dynamic_shared_bytes=fields.optional_count("max_dynamic_shared_bytes"),
        dims=dims,
    )
