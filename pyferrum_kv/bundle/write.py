"""Write a manifest: modules -> JSON document -> bytes, the same bytes for the same modules."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pyferrum_kv.bundle.manifest import FORMAT_VERSION, Manifest, Module, Usage, Variant
from pyferrum_kv.signature import Limits, Signature

_LINE = 240  # what fits in a line stays on one: a parameter, a usage row


def new_manifest(modules: Iterable[Module]) -> Manifest:
    """Make the manifest of these modules, in the format version that this package writes."""
    modules = tuple(modules)
    document = {
        "format_version": _dotted(FORMAT_VERSION),
        "modules": [_module(module) for module in modules],
    }
    return Manifest(FORMAT_VERSION, modules, document)


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the file's bytes; fields that a later minor version added are in them."""
    return (_dump(manifest.document, 0) + "\n").encode()


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _module(module: Module) -> dict[str, Any]:
    return {
        "name": module.name,
        "sources": [asdict(source) for source in module.sources],
        "entries": [_entry(signature) for signature in module.entries],
        "variants": [_variant(variant) for variant in module.variants],
    }


def _entry(signature: Signature) -> dict[str, Any]:
    return {
        "name": signature.entry,
        "params": [asdict(param) for param in signature.params],
        "limits": _limits(signature.limits),
    }


def _limits(limits: Limits) -> dict[str, Any]:
    return {
        "max_threads": limits.max_threads,
        "required_threads": limits.required_threads,
        "static_shared_bytes": limits.static_shared_bytes,
        "max_dynamic_shared_bytes": limits.max_dynamic_shared_bytes,
        "dims": [
            {"name": name, "min": low, "max": high, "step": step}
            for name, (low, high, step) in limits.dims.items()
        ],
    }


def _variant(variant: Variant) -> dict[str, Any]:
    return {
        "format": "ptx",
        "target": variant.target,
        "file": variant.file,
        "sha256": variant.sha256,
        "size_bytes": variant.size_bytes,
        "ptx_version": _dotted(variant.ptx_version),
        "min_driver": _dotted(variant.min_driver),
        "nvrtc_version": variant.nvrtc_version,
        "options": variant.options,
        "ptxas_version": variant.ptxas_version,
        "entries": variant.entries,
        "usage": [_usage(usage) for usage in variant.usage],
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return asdict(usage)


def _dump(value: Any, depth: int) -> str:
    """JSON with one short object a line: a change of one parameter is a change of one line."""
    flat = json.dumps(value)
    if not isinstance(value, (dict, list, tuple)) or len(flat) + 2 * depth <= _LINE or not value:
        return flat
    pad, end = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict):
        lines = (f"{json.dumps(key)}: {_dump(item, depth + 1)}" for key, item in value.items())
        return "{" + pad + ("," + pad).join(lines) + end + "}"
    return "[" + pad + ("," + pad).join(_dump(item, depth + 1) for item in value) + end + "]"
