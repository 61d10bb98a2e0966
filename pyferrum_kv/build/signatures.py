"""Hold a declaration against the `.entry` that the compiler wrote: two sources, one signature.

The declaration tells names, sign, const, pointee and shape; the PTX tells count, size and offset. A
difference in what both can tell fails the build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from pyferrum_kv.build.declaration import Declaration, DeclaredParam
from pyferrum_kv.errors import BuildError
from pyferrum_kv.signature import Limits, Param, ParamKind, Signature

SCALARS: dict[str, tuple[ParamKind, int]] = {
    **{f"i{bits}": ("int", bits // 8) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": ("uint", bits // 8) for bits in (8, 16, 32, 64)},
    **{f"f{bits}": ("float", bits // 8) for bits in (16, 32, 64)},
    "bf16": ("float", 2),
    "bool": ("uint", 1),
}
C_NAMES = {
    "char": "i8",
    "signed char": "i8",
    "unsigned char": "u8",
    "short": "i16",
    "unsigned short": "u16",
    "int": "i32",
    "unsigned": "u32",
    "unsigned int": "u32",
    "long": "i64",
    "unsigned long": "u64",
    "long long": "i64",
    "unsigned long long": "u64",
    "size_t": "u64",
    "float": "f32",
    "double": "f64",
    "__half": "f16",
    "half": "f16",
    "__nv_bfloat16": "bf16",
    **{f"int{bits}_t": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}_t": f"u{bits}" for bits in (8, 16, 32, 64)},
}


def signature(declared: Declaration, ptx: Signature, typedefs: Mapping[str, str]) -> Signature:
    """Return the entry's full signature; BuildError where the PTX says something else."""
    name = declared.entry
    if len(declared.params) != len(ptx.params):
        raise BuildError(
            f"{name}: the declaration has {len(declared.params)} parameters, "
            f"the PTX has {len(ptx.params)}"
        )
    pairs = zip(declared.params, ptx.params, strict=True)
    params = tuple(_param(name, said, found, typedefs) for said, found in pairs)
    return Signature(name, params, _limits(name, declared.limits, ptx.limits))


def _param(entry: str, said: DeclaredParam, found: Param, typedefs: Mapping[str, str]) -> Param:
    base = _canonical(said.base, typedefs)
    kind: ParamKind
    if said.stars:
        kind, size = "pointer", 8
    elif base in SCALARS:
        kind, size = SCALARS[base]
    elif found.kind == "struct":
        kind, size = "struct", found.size_bytes
    else:
        raise BuildError(
            f"{entry}: parameter {said.name!r} has type {said.ctype}, which is not known here; "
            "use a fixed-width type, a typedef of one, or a struct"
        )
    # Header-free sources hold a 16-bit float in a struct or an integer, and the PTX shows that.
    fits = {
        "pointer": ("bits", "pointer"),
        "float": ("float",) if size > 2 else ("float", "struct", "bits"),
        "struct": ("struct",),
    }.get(kind, ("bits",))
    if found.size_bytes != size or found.kind not in fits:
        raise BuildError(
            f"{entry}: parameter {said.name!r} is {said.ctype} ({kind}, {size} bytes) in the "
            f"declaration; the PTX has {found.kind}, {found.size_bytes} bytes"
        )
    return replace(
        found,
        name=said.name,
        kind=kind,
        ctype=said.ctype,
        pointee=base + "*" * (said.stars - 1) if said.stars else "",
        is_const=said.is_const,
        shape=said.shape,
    )


def _canonical(base: str, typedefs: Mapping[str, str]) -> str:
    """Follow typedefs to a fixed-width name; a name that stays unknown is a struct's."""
    for _ in range(len(typedefs) + 1):
        if base in SCALARS:
            return base
        if base in C_NAMES:
            return C_NAMES[base]
        if base not in typedefs:
            break
        base = typedefs[base]
    return base


def _limits(entry: str, said: Limits, found: Limits) -> Limits:
    required = said.required_threads or found.required_threads
    if required and found.max_threads and prod(required) > found.max_threads:
        raise BuildError(
            f"{entry}: LIMITS asks for {prod(required)} threads; "
            f"__launch_bounds__ allows {found.max_threads}"
        )
    return replace(
        said,
        max_threads=found.max_threads,
        required_threads=required,
        static_shared_bytes=found.static_shared_bytes,
    )
