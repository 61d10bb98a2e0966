"""Modules and functions: PTX taken in as the driver takes it, refused as the driver refuses it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyferrum_kv.ptx_reader import PtxSyntaxError
from pyferrum_kv.virtual.host import host_buffer
from pyferrum_kv.virtual.objects import Allocation, Context
from pyferrum_kv.virtual.parser import parse_ptx
from pyferrum_kv.virtual.program import Kernel, Program
from pyferrum_kv.virtual.status import Refused

ELF, FATBIN = b"\x7fELF", b"\x50\xed\x55\xba"
NEWEST_PTX = {12000: (8, 0), 12010: (8, 1), 12020: (8, 2), 12030: (8, 3), 12040: (8, 4)} | {
    12050: (8, 5), 12060: (8, 5), 12070: (8, 6), 12080: (8, 7), 12090: (8, 8), 13000: (9, 0),
    13010: (9, 1), 13020: (9, 2), 13030: (9, 3), 13040: (9, 4),
}  # fmt: skip
"""Driver version -> the newest PTX ISA that it reads."""

DEFAULT_DYNAMIC_SHARED = 48 << 10
"""What a launch may use without raising CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""


@dataclass(eq=False)
class Function:
    """A kernel of a loaded module, with the attributes that can be set."""

    handle: int
    kernel: Kernel
    module: Module
    settings: dict[int, int] = field(default_factory=dict)  # CUfunction_attribute -> value
    cache_config: int = 0

    @property
    def name(self) -> str:
        return str(self.kernel.name)


@dataclass(eq=False)
class Module:
    handle: int
    context: Context
    program: Program
    functions: dict[str, Function] = field(default_factory=dict)
    globals: dict[str, Allocation] = field(default_factory=dict)


@dataclass(eq=False)
class Library:
    """Modules are made from it for each context that asks."""

    handle: int
    program: Program
    modules: dict[int, Module] = field(default_factory=dict)  # handle of the context -> module
    kernels: dict[str, Entry] = field(default_factory=dict)


@dataclass(eq=False)
class Entry:
    """A CUkernel: a function of whichever context is current."""

    handle: int
    library: Library
    name: str


def image_text(image: Any) -> str:
    """PTX text of an image; INVALID_IMAGE for what is none, NOT_SUPPORTED for machine code."""
    if isinstance(image, int):
        data = ctypes.string_at(image)
    else:
        buffer = host_buffer(image, 0)
        size = memoryview(image).nbytes
        data = ctypes.string_at(buffer.address, size) if size else b""
    if data.startswith((ELF, FATBIN)):
        raise Refused("NOT_SUPPORTED", "machine code is not emulated; load the PTX text instead")
    text = data.split(b"\0", 1)[0].decode("utf-8", errors="replace")
    if not _first_statement(text).startswith(".version"):
        raise Refused("INVALID_IMAGE", "the image is neither PTX text nor a known binary")
    return text


def read_program(text: str, cc: tuple[int, int], driver_version: int) -> Program:
    """Parse PTX and judge it as the driver of that version does on a device of that capability."""
    try:
        program = parse_ptx(text)
    except PtxSyntaxError as error:
        newest = newest_ptx(driver_version)
        declared = _declared_version(text)
        if declared and declared > newest:
            raise _too_new(declared, newest) from None
        raise Refused(
            "INVALID_PTX",
            f"ptxas application ptx input, line {error.line}; error   : {error.message}",
        ) from None
    if program.version > newest_ptx(driver_version):
        raise _too_new(program.version, newest_ptx(driver_version))
    _check_target(program.target, cc)
    return program


def newest_ptx(driver_version: int) -> tuple[int, int]:
    """The newest PTX ISA that a driver reads."""
    known = [v for v in NEWEST_PTX if v <= driver_version]
    return NEWEST_PTX[max(known)] if known else (7, 8)


def write_log(options: Any, values: Any, log: str, *, error: bool) -> None:
    """Write a JIT log into the buffer that cuModuleLoadDataEx or cuLibraryLoadData was given."""
    kind = "ERROR" if error else "INFO"
    named = {o.name: v for o, v in zip(options or (), values or (), strict=False)}
    target: Mapping[str, Any] = {
        k.removeprefix(f"CU_JIT_{kind}_LOG_BUFFER"): v for k, v in named.items() if kind in k
    }
    buffer, size = target.get(""), int(target.get("_SIZE_BYTES", 0))
    if buffer is None or size <= 0:
        return
    data = log.encode()[: size - 1] + b"\0"
    room = host_buffer(buffer, size)
    ctypes.memmove(room.address, data, min(len(data), memoryview(buffer).nbytes))


def _too_new(declared: tuple[int, int], newest: tuple[int, int]) -> Refused:
    return Refused(
        "UNSUPPORTED_PTX_VERSION",
        f"PTX .version {declared[0]}.{declared[1]} is newer than this driver reads "
        f"({newest[0]}.{newest[1]})",
    )


def _check_target(target: str, cc: tuple[int, int]) -> None:
    wanted = target.removeprefix("sm_").rstrip("af")
    number, device = int(wanted), cc[0] * 10 + cc[1]
    fits = number == device if target.endswith("a") else number <= device
    if target.endswith("f"):
        fits = number <= device and number // 10 == device // 10
    if not fits:
        raise Refused(
            "INVALID_PTX",
            f"ptxas application ptx input, .target {target}: the device is sm_{device}",
        )


def _first_statement(text: str) -> str:
    """The first line that is neither empty nor a comment."""
    inside = False
    for line in text.splitlines():
        line = line.strip()
        if inside:
            if "*/" not in line:
                continue
            inside, line = False, line.split("*/", 1)[1].strip()
        if line.startswith("/*") and "*/" not in line:
            inside = True
        elif line and not line.startswith(("//", "/*")):
            return line
    return ""


def _declared_version(text: str) -> tuple[int, int] | None:
    words = _first_statement(text).split()
    try:
        major, minor = words[1].split(".")
        return int(major), int(minor)
    except (IndexError, ValueError):
        return None
