"""Which variant serves a device and its driver, and a verdict in words before anything is loaded.

PTX of a target runs on that compute capability and every later one; `sm_90a` and its like run on
exactly one. Among the variants that the driver reads, the highest target is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyferrum_kv.bundle.driver_versions import Version, from_code, in_words
from pyferrum_kv.bundle.manifest import Variant
from pyferrum_kv.bundle.ptx_bundle import PtxBundle
from pyferrum_kv.errors import NoVariant


def select(
    variants: Sequence[Variant],
    compute_capability: Version,
    driver_version: int,
    entry: str = "",
) -> Variant:
    """Return the variant to load; NoVariant says in words why there is none.

    compute_capability: (9, 0).   driver_version: as cuDriverGetVersion reports it, 12040 for 12.4.
    """
    what = entry or (variants[0].module if variants else "the entry")
    fitting = [v for v in variants if _serves(v.target, compute_capability)]
    if not fitting:
        raise NoVariant(
            f"no variant of {what} for compute capability {_dotted(compute_capability)}; "
            f"the bundle has {', '.join(v.target for v in variants) or 'none'}"
        )
    driver = from_code(driver_version)
    readable = [v for v in fitting if v.min_driver <= driver]
    if not readable:
        needed = min(v.min_driver for v in fitting)
        raise NoVariant(
            f"no variant of {what} for this driver: {_needs(needed, driver)}; "
            "update the driver, or rebuild the bundle with an older NVRTC"
        )
    return max(readable, key=lambda v: (_capability(v.target), v.ptx_version))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether everything in a bundle can be loaded, and the lines that say so."""

    works: bool
    lines: tuple[str, ...]


def verdict(
    bundle: PtxBundle, compute_capability: Version | None, driver_version: int | None
) -> Verdict:
    """Hold a bundle against a device and a driver without loading it; None: there is none here.

    A module whose lowest target is above the bundle's is a faster way for newer devices: an older
    device works without it.
    """
    variants = [v for module in bundle.manifest.modules for v in module.variants]
    if not variants:
        return Verdict(False, ("bundle is empty; run python build_ptx.py",))
    if compute_capability is None or driver_version is None:
        driver, target = _least(bundle)
        return Verdict(
            False,
            (
                f"bundle needs driver >= {in_words(driver)} and compute capability "
                f">= {_dotted(_capability(target))}; there is no driver here to hold it against",
            ),
        )
    driver = from_code(driver_version)
    oldest = _least(bundle)[0]
    if driver < oldest:
        return Verdict(False, (f"bundle needs {_needs(oldest, driver)}",))
    lines: list[str] = []
    works = True
    floor = min(_capability(v.target) for v in variants)
    for module in bundle.manifest.modules:
        lowest = _capability(_lowest(module.variants)) if module.variants else floor
        if floor <= compute_capability < lowest:
            lines.append(f"{module.name}: for compute capability >= {_dotted(lowest)} only")
            continue
        try:
            chosen = select(module.variants, compute_capability, driver_version, module.name)
        except NoVariant as none:
            works = False
            lines.append(str(none))
            continue
        lines.append(
            f"{module.name}: {chosen.target} (PTX ISA {_dotted(chosen.ptx_version)}) serves "
            f"compute capability {_dotted(compute_capability)}"
        )
    return Verdict(works, tuple(lines))


def _least(bundle: PtxBundle) -> tuple[Version, str]:
    """The oldest driver that reads every module, and the lowest target of all."""
    modules = [module.variants for module in bundle.manifest.modules if module.variants]
    driver = max(min(v.min_driver for v in variants) for variants in modules)
    return driver, _lowest(v for variants in modules for v in variants)


def _lowest(variants: Iterable[Variant]) -> str:
    return min((v.target for v in variants), key=_capability)


def _capability(target: str) -> Version:
    """Return (9, 0) for sm_90 and (12, 0) for sm_120."""
    number = int(re.sub(r"\D", "", target))
    return number // 10, number % 10


def _serves(target: str, compute_capability: Version) -> bool:
    if target[-1].isdigit():
        return _capability(target) <= compute_capability
    if target.endswith("f"):  # family-specific: later minors of the same major
        capability = _capability(target)
        return capability[0] == compute_capability[0] and capability <= compute_capability
    return _capability(target) == compute_capability


def _needs(needed: Version, driver: Version) -> str:
    return f"driver >= {in_words(needed)}; this driver reports {_dotted(driver)}"


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
