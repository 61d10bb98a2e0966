"""What a module is loaded from: PTX or a cubin, named, hashed, and loaded with the JIT's log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.codes import LOADING
from pyferrum_kv.errors import ArgumentError, DriverError, ModuleLoadError
from pyferrum_kv.ptx_reader import PtxInfo, PtxSyntaxError, read_ptx

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext

_BINARY_MAGICS = (b"\x7fELF", b"\x50\xed\x55\xba")  # cubin, fatbin
_LOG_BYTES = 16384


@dataclass(frozen=True)
class Image:
    """The bytes that the driver gets. PTX ends in the NUL that cuModuleLoadData looks for."""

    name: str
    data: bytes
    is_ptx: bool
    digest: str

    @classmethod
    def of(cls, image: Any, name: str = "") -> Image:
        """Read bytes, PTX text, a Path, or an object with `ptx` (a CompiledPtx)."""
        if hasattr(image, "ptx"):
            image = image.ptx
        if isinstance(image, Path):
            name, image = name or image.name, image.read_bytes()
        if isinstance(image, str):
            if "\n" not in image:
                raise ArgumentError(f"load_module: {image!r} is no PTX text; wanted a pathlib.Path")
            image = image.encode()
        if not isinstance(image, (bytes, bytearray, memoryview)) or not len(image):
            raise ArgumentError(
                f"load_module: image is {type(image).__name__}{'' if image else ', empty'};"
                " wanted PTX text, bytes of PTX or a cubin, a Path, or a CompiledPtx"
            )
        data = bytes(image)
        is_ptx = not data.startswith(_BINARY_MAGICS)
        if is_ptx:
            data = data.rstrip(b"\0") + b"\0"
        digest = hashlib.sha256(data).hexdigest()
        return cls(name or f"{'PTX' if is_ptx else 'cubin'} {digest[:12]}", data, is_ptx, digest)

    @cached_property
    def ptx(self) -> PtxInfo | None:
        """Header and entries as the text tells them; None where it is no PTX."""
        if not self.is_ptx:
            return None
        try:
            return read_ptx(self.data[:-1].decode("utf-8", "replace"))
        except PtxSyntaxError:
            return None


def load(context: CudaContext, image: Image) -> tuple[Any, str]:
    """Load into the context: the CUmodule and what the JIT compiler had to say."""
    options = context.api.raw.CUjit_option
    info, error = bytearray(_LOG_BYTES), bytearray(_LOG_BYTES)
    values = {
        options.CU_JIT_INFO_LOG_BUFFER: info,
        options.CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES: _LOG_BYTES,
        options.CU_JIT_ERROR_LOG_BUFFER: error,
        options.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: _LOG_BYTES,
    }
    args = (image.data, len(values), list(values), list(values.values()))
    try:
        return context.call("cuModuleLoadDataEx", *args, on=image.name), _text(info)
    except DriverError as refused:
        if refused.code not in LOADING:
            raise
        raise ModuleLoadError(
            refused.call,
            refused.code,
            refused.name,
            refused.meaning,
            on=image.name,
            hint=_next_step(context, image, refused),
            log=_text(error) or _text(info),
        ) from refused


def _text(log: bytearray) -> str:
    return bytes(log).split(b"\0", 1)[0].decode("utf-8", "replace").strip()


def _next_step(context: CudaContext, image: Image, refused: DriverError) -> str:
    """What the image wants beside what is there, then what to do."""
    major, minor = context.compute_capability
    version = context.api.version
    here = (
        f"this is sm_{major}{minor} with a driver of CUDA {version // 1000}.{version % 1000 // 10}"
    )
    if image.ptx is not None:
        isa = ".".join(map(str, image.ptx.version))
        here = f"the PTX is ISA {isa} for {image.ptx.target}, {here}"
    elif image.is_ptx:
        here = f"the bytes do not read as PTX; {here}"
    return f"{here}; {refused.hint}" if refused.hint else here
