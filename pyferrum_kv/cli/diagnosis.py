"""What works on this machine: installation, driver, bundle and devices, each held against the next.

Nothing here prints. Each part turns what goes wrong into a finding with a next step, so that a
machine without a GPU, or with half an installation, still gets the whole report.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pyferrum_kv.bundle import PtxBundle, verdict
from pyferrum_kv.bundle.driver_versions import from_code, in_words
from pyferrum_kv.cli.terminal import Mark, bytes_text, dotted
from pyferrum_kv.driver import Api, CudaContext, device_count, open_driver
from pyferrum_kv.driver.device import Device
from pyferrum_kv.errors import BundleError, DeviceNotFound, FerrumError
from pyferrum_kv.loader import PtxLoader
from pyferrum_kv.nvrtc import WANTED_WHEEL, WHEEL

KERNEL_MODULE = Path("/proc/driver/nvidia/version")
VARIABLES = (
    "PYFERRUM_KV_DRIVER",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM",
)
GENERAL = frozenset(
    f"{operation}{dtype}"
    for operation in ("int8_kv_cache_append", "paged_decode_attention_int8")
    for dtype in ("", "_bf16")
)
"""Entries that serve every shape: a device works if these load, whatever faster ones do."""
VIRTUAL = "the virtual device runs the same PTX on the CPU: pyferrum-kv demo"


@dataclass
class Section:
    """Findings about one thing: (mark, what was looked at, what was found and the next step)."""

    title: str
    findings: list[tuple[Mark, str, str]] = field(default_factory=list)

    def add(self, mark: Mark, what: str, finding: str) -> None:
        self.findings.append((mark, what, finding))


@dataclass
class Diagnosis:
    """The sections in reading order, and what they come to."""

    sections: list[Section]
    bundle_is_sound: bool
    devices_found: int
    devices_that_work: int

    @property
    def conclusion(self) -> str:
        if not self.bundle_is_sound:
            return "the PTX bundle cannot be used: reinstall, or run python build_ptx.py"
        if not self.devices_found:
            return f"no GPU can be used here; {VIRTUAL}"
        counted = f"the kernels run on {self.devices_that_work} of {self.devices_found} device(s)"
        return f"{counted}; next: pyferrum-kv demo" if self.devices_that_work else counted


def diagnose(
    driver: Any = None, open_bundle: Callable[[], PtxBundle] = PtxBundle.default
) -> Diagnosis:
    """Look at everything. driver: "cuda", "virtual", an object, or None for the environment's."""
    bundle_section, bundle = _look_at_bundle(open_bundle)
    driver_section, api = _look_at_driver(driver)
    sections = [look_at_installation(), bundle_section, driver_section]
    found = works = 0
    if api is not None:
        for ordinal in range(_count(api, driver_section)):
            section, device_works = _look_at_device(api, ordinal, bundle)
            sections.append(section)
            found, works = found + 1, works + device_works
    return Diagnosis(sections, bundle is not None, found, works)


def look_at_installation() -> Section:
    section = Section("Installation")
    section.add("fact", "python", f"{platform.python_version()} on {platform.platform()}")
    for package in ("pyferrum-kv", "numpy", "cuda-bindings"):
        found = _version(package)
        if package == "pyferrum-kv":
            section.add("fact", package, found or "not installed; running from a checkout")
        elif found:
            section.add("ok", package, found)
        else:
            section.add("bad", package, "not installed; pip install cuda-python numpy")
    nvrtc = _version(WHEEL)
    if nvrtc == WANTED_WHEEL:
        section.add("ok", "NVRTC", f"{nvrtc}: python build_ptx.py can rebuild the bundle")
    else:
        what = f"{nvrtc} is not the pinned {WANTED_WHEEL}" if nvrtc else "absent"
        section.add(
            "fact", "NVRTC", f"{what}; only rebuilding the bundle needs {WHEEL}=={WANTED_WHEEL}"
        )
    for variable in VARIABLES:
        if variable in os.environ:
            section.add("note", variable, f"is set to {os.environ[variable]!r}")
    return section


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _look_at_bundle(open_bundle: Callable[[], PtxBundle]) -> tuple[Section, PtxBundle | None]:
    section = Section("Bundle")
    try:
        bundle = open_bundle()
    except BundleError as error:
        section.add("bad", "manifest", str(error))
        return section, None
    section.add("fact", "folder", str(bundle.folder))
    problems = bundle.verify()
    variants = [v for module in bundle.manifest.modules for v in module.variants]
    if problems or not variants:
        section.add("bad", "files", "\n".join(problems) or "none; run python build_ptx.py")
        return section, None
    targets = ", ".join(sorted({v.target for v in variants}))
    section.add("ok", "files", f"{len(variants)} for {targets}: every hash as in the manifest")
    section.add("ok", "entries", f"{len(bundle.entries)}; pyferrum-kv bundle lists them")
    oldest = in_words(max(v.min_driver for v in variants))
    section.add("fact", "needs", f"a driver that reports CUDA {oldest} or newer")
    return section, bundle


def _look_at_driver(driver: Any) -> tuple[Section, Api | None]:
    section = Section("Driver")
    try:
        api = open_driver(driver)
        cuda = in_words(from_code(api.version))
    except FerrumError as error:
        section.add("bad", "driver", str(error))
        section.add("fact", "kernel module", kernel_module_in_words())
        return section, None
    if api.name == "virtual":
        section.add("note", "virtual device", f"NumPy on this CPU, in the place of CUDA {cuda}")
        return section, api
    section.add("ok", "libcuda", f"reports CUDA {cuda}")
    section.add("fact", "kernel module", kernel_module_in_words())
    return section, api


def kernel_module_in_words(version: Path = KERNEL_MODULE) -> str:
    """Say whether the kernel has the driver: so it may in a container that lacks libcuda."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", version.read_text())
    except OSError:
        return "not loaded: this machine has no NVIDIA GPU, or its driver is not installed"
    number = found[1] if found else "of unknown version"
    return (
        f"{number} is loaded; in a container, libcuda comes from the host (docker run --gpus all)"
    )


def _count(api: Api, section: Section) -> int:
    try:
        count = device_count(api)
    except DeviceNotFound:
        count = 0
    except FerrumError as error:
        section.add("bad", "devices", str(error))
        return 0
    if count:
        section.add("ok", "devices", str(count))
    else:
        section.add("bad", "devices", "none visible; look at CUDA_VISIBLE_DEVICES and nvidia-smi")
    return count


def _look_at_device(api: Api, ordinal: int, bundle: PtxBundle | None) -> tuple[Section, bool]:
    """Hold the bundle against a device in words, then load every module of it there."""
    section = Section(f"Device {ordinal}")
    try:
        device = Device(api, ordinal)
        section.title += f": {device.name}"
        capability = f"{dotted(device.compute_capability)}, {device.num_sms} SMs"
        section.add("fact", "compute capability", capability)
        if bundle is None:
            section.add("bad", "bundle", "cannot be used, see above")
            return section, False
        said = verdict(bundle, device.compute_capability, api.version)
        section.add("ok" if said.works else "note", "bundle", "\n".join(said.lines))
        return section, _loads(api, ordinal, bundle, section)
    except FerrumError as error:
        section.add("bad", "device", str(error))
        return section, False


def _loads(api: Api, ordinal: int, bundle: PtxBundle, section: Section) -> bool:
    """Load every entry that the device can run; the general ones must load."""
    ctx = CudaContext.new(ordinal, driver=api)
    with ctx:
        free, total = ctx.mem_info()
        section.add("fact", "memory", f"{bytes_text(free)} free of {bytes_text(total)}")
        pools = "stream-ordered" if ctx.has_async_alloc else "synchronising: no memory pools here"
        section.add("fact", "allocation", pools)
        loader = PtxLoader.of(ctx, bundle)
        served = list(filter(loader.serves, bundle.entries))
        others = [entry for entry in bundle.entries if entry not in served]
        refused: dict[str, str] = {}
        for entry in served:
            try:
                loader.function(entry)
            except FerrumError as error:
                refused[entry] = f"{entry}: {error}"
    loaded = len(served) - len(refused)
    works = bool(loaded) and GENERAL.isdisjoint({*others, *refused})
    mark: Mark = "bad" if not works else "note" if refused else "ok"
    told = [f"{loaded} of {len(bundle.entries)} entries are loaded"]
    if others:
        told.append(f"{len(others)} are for other devices or drivers, the first: {others[0]}")
    if refused:
        told += [f"{len(refused)} cannot be, the first:", next(iter(refused.values()))]
    section.add(mark, "loading", "\n".join(told))
    return works


def as_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the diagnosis as plain data, for JSON."""
    return {
        "conclusion": diagnosis.conclusion,
        "bundle_is_sound": diagnosis.bundle_is_sound,
        "devices_found": diagnosis.devices_found,
        "devices_that_work": diagnosis.devices_that_work,
        "sections": [
            {
                "title": section.title,
                "findings": [
                    {"mark": mark, "what": what, "finding": finding}
                    for mark, what, finding in section.findings
                ],
            }
            for section in diagnosis.sections
        ],
    }
