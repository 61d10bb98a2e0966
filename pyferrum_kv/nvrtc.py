"""Compile CUDA C++ to PTX with NVRTC: at build time and on the command line, never on the run path.

Which NVRTC compiles decides the PTX ISA version and so the oldest driver that loads the result. The
bindings take whatever libnvrtc they find first, so the wanted one is loaded before their first call
and the version that answers is checked.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pyferrum_kv.errors import BuildError, CompileError, NvrtcNotFound

WHEEL = "nvidia-cuda-nvrtc-cu12"
WANTED_WHEEL = "12.0.76"  # writes PTX ISA 8.0: every CUDA 12 driver (R525 and later) reads it
WANTED = (12, 0)


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Options of a compilation, named as in cudarc; None leaves NVRTC's default.

    `arch` is "compute_80"; `options` are passed on as they stand, after the named ones.
    """

    arch: str = "compute_80"
    ftz: bool | None = None
    prec_sqrt: bool | None = None
    prec_div: bool | None = None
    fmad: bool | None = None
    use_fast_math: bool = False
    maxrregcount: int | None = None
    include_paths: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    std: str = "c++17"
    lineinfo: bool = True
    options: tuple[str, ...] = ()

    def flags(self) -> tuple[str, ...]:
        """Return NVRTC's command line."""
        switches = {"ftz": self.ftz, "prec-sqrt": self.prec_sqrt, "prec-div": self.prec_div}
        flags = [f"--gpu-architecture={self.arch}", f"--std={self.std}"]
        flags += [
            f"--{name}={str(value).lower()}"
            for name, value in {**switches, "fmad": self.fmad}.items()
            if value is not None
        ]
        if self.use_fast_math:
            flags.append("--use_fast_math")
        if self.maxrregcount is not None:
            flags.append(f"--maxrregcount={self.maxrregcount}")
        if self.lineinfo:
            flags.append("--generate-line-info")
        flags += [f"--define-macro={define}" for define in self.defines]
        flags += [f"--include-path={path}" for path in self.include_paths]
        return (*flags, *self.options)


@dataclass(frozen=True, slots=True)
class CompiledPtx:
    """What a compilation made: PTX text without the NUL, NVRTC's log, and which NVRTC it was."""

    name: str
    ptx: bytes
    log: str
    nvrtc_version: str  # "12.0.76"


def compile_ptx(
    source: str,
    name: str = "/pyferrum_kv/kernels/source.cu",
    options: CompileOptions | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    wanted: tuple[int, int] | None = WANTED,
) -> CompiledPtx:
    """Compile one source to PTX.

    name:     stands in line information and in messages; absolute, so that no folder enters the PTX
    headers:  include name -> text, kept in memory; in line information they lie beside `name`
    wanted:   the NVRTC version asked for; None takes whatever the bindings find
    """
    flags = (options or CompileOptions()).flags()
    folder = name.rpartition("/")[0]
    headers = {
        # Without #line NVRTC would name the header by the folder that the process runs in.
        header: f'#line 1 "{folder}/{header}"\n{text}'
        for header, text in (headers or {}).items()
    }
    nvrtc = open_nvrtc(wanted)
    program = _call(
        nvrtc,
        "nvrtcCreateProgram",
        source.encode(),
        name.encode(),
        len(headers),
        [text.encode() for text in headers.values()],
        [header.encode() for header in headers],
    )
    try:
        with _locale_kept():
            (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [f.encode() for f in flags])
        log = _text(nvrtc, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog", program).decode()
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(name, flags, log or status.name)
        ptx = _text(nvrtc, "nvrtcGetPTXSize", "nvrtcGetPTX", program)
    finally:
        _call(nvrtc, "nvrtcDestroyProgram", program)
    return CompiledPtx(name, ptx, log, _version_in(ptx))


def open_nvrtc(wanted: tuple[int, int] | None = WANTED) -> Any:
    """Return cuda.bindings.nvrtc on the NVRTC that is wanted; NvrtcNotFound says what was found."""
    if wanted == WANTED:
        _preload()
    from cuda.bindings import nvrtc

    install = f"pip install {WHEEL}=={WANTED_WHEEL}"
    try:
        found: tuple[int, int] = _call(nvrtc, "nvrtcVersion")
    except RuntimeError as missing:
        raise NvrtcNotFound(f"NVRTC was not found ({missing}); {install}") from None
    if wanted is not None and found != wanted:
        raise NvrtcNotFound(
            f"found NVRTC {found[0]}.{found[1]}; wanted {wanted[0]}.{wanted[1]}, "
            f"so that the PTX loads on the oldest driver promised; {install} in an "
            "environment where no other NVRTC is loaded first"
        )
    return nvrtc


def _preload() -> None:
    """Load the wheel's libnvrtc.so.12, so that the bindings' own search finds it loaded."""
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "libnvrtc.so.12":
            try:
                ctypes.CDLL(str(file.locate()))
            except OSError as error:
                raise NvrtcNotFound(f"{file.locate()} cannot be loaded: {error}") from None


def _call(nvrtc: Any, function: str, *args: object) -> Any:
    """Call and take the status off: the value, a tuple of several, or None."""
    status, *values = getattr(nvrtc, function)(*args)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BuildError(f"{function}: {status.name}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _text(nvrtc: Any, size_of: str, get: str, program: object) -> bytes:
    buffer = bytearray(_call(nvrtc, size_of, program))
    _call(nvrtc, get, program, buffer)
    return bytes(buffer).rstrip(b"\0")


@contextmanager
def _locale_kept() -> Iterator[None]:
    """NVRTC leaves the thread in the C locale, in which Python's open() reads ASCII alone."""
    try:
        uselocale = ctypes.CDLL(None).uselocale
    except (AttributeError, OSError):  # a C library without thread locales
        yield
        return
    uselocale.argtypes, uselocale.restype = [ctypes.c_void_p], ctypes.c_void_p
    before = uselocale(None)
    try:
        yield
    finally:
        uselocale(before)


def _version_in(ptx: bytes) -> str:
    """Return the compiler's full version, which nvrtcVersion shortens to major and minor."""
    found = re.search(rb"release \d+\.\d+, V(\d+\.\d+\.\d+)", ptx[:1000])
    return found[1].decode() if found else "unknown"
