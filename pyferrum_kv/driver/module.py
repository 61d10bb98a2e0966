"""CudaModule: loaded code, its functions and its globals."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy.typing as npt

from pyferrum_kv.driver.codes import NOT_FOUND
from pyferrum_kv.driver.function import CudaFunction
from pyferrum_kv.driver.image import Image, load
from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.driver.memory import CudaView, Memory
from pyferrum_kv.driver.parameters import signature_from_driver
from pyferrum_kv.dtypes import as_dtype
from pyferrum_kv.errors import ArgumentError, CaptureError, ClosedError, DriverError, EntryNotFound
from pyferrum_kv.signature import Signature

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext


class _Global(Memory):
    """A module's global or constant memory: lives and ends with the module."""

    __slots__ = ("_module",)

    _module: CudaModule

    @classmethod
    def of(cls, module: CudaModule, ptr: int, num_bytes: int) -> _Global:
        made = cls(module.context, None, ptr, num_bytes, as_dtype("uint8"), None)
        made._module = module  # a view of a global keeps its module loaded
        return made


class CudaModule:
    """Code loaded into a context, by ctx.load_module(). Owns its handle.

    Functions are looked up once and kept. Signatures come from a manifest where one was given,
    else from the PTX, else from the driver.
    """

    def __init__(self, context: CudaContext, image: Image) -> None:
        self.context, self.image, self.name = context, image, image.name
        handle, self.jit_log = load(context, image)
        what, call = f"module {image.name}", context.api.call
        self._owned = Owned(
            context.ledger, handle, what, lambda: call("cuModuleUnload", handle, on=what)
        )
        self._lock = threading.Lock()
        self._functions: dict[str, CudaFunction] = {}
        self._globals: dict[str, _Global] = {}
        self._given: dict[str, Signature] = {}

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries known without asking the driver; of a cubin without signatures, none."""
        read = self.image.ptx.entries if self.image.ptx else {}
        return tuple(dict.fromkeys((*read, *self._given)))

    def add_signatures(self, signatures: Mapping[str, Signature]) -> None:
        """Say what a manifest knows of the entries; what it says may be added to, not changed."""
        for entry, signature in signatures.items():
            if self._given.setdefault(entry, signature) != signature:
                raise ArgumentError(
                    f"load_module: {self.name} was loaded with another signature of {entry}:"
                    f" {self._given[entry]}; got {signature}"
                )

    def signature(self, entry: str) -> Signature:
        """The best known signature of an entry."""
        return self.function(entry).signature

    def function(self, name: str) -> CudaFunction:
        """Look an entry up: once in the driver, then in a dictionary."""
        held = self._functions.get(name)
        if held is not None:
            return held
        if self.context.ledger.captures:
            raise CaptureError(
                f"function: {name} of {self.name} is not looked up yet and a capture runs;"
                " call module.preload() before it"
            )
        with self._lock:
            held = self._functions.get(name)
            if held is None:
                held = self._functions[name] = self._look_up(name)
        return held

    __getitem__ = function

    def _look_up(self, name: str) -> CudaFunction:
        if "\0" in name:  # the driver would read the name up to there
            raise self._no_entry(name)
        try:
            handle = self.context.call(
                "cuModuleGetFunction", self._handle(name), name.encode(), on=f"{self.name}, {name}"
            )
        except DriverError as error:
            if error.code != NOT_FOUND:
                raise
            raise self._no_entry(name) from error
        written = None if self.image.ptx is None else self.image.ptx.entries.get(name)
        count = None if written is None else len(written.params)
        told = signature_from_driver(self.context, handle, name, count)
        return CudaFunction(self, handle, name, self._given.get(name) or written, told)

    def _no_entry(self, name: str) -> EntryNotFound:
        known = ", ".join(self.entries) or "none that the image tells"
        return EntryNotFound(f"{self.name} has no entry {name!r}; it has {known}")

    def _handle(self, wanted: str) -> object:
        if self._owned.is_closed:
            raise ClosedError(f"{wanted}: module {self.name} is closed")
        return self._owned.value

    def preload(self) -> None:
        """Look up every known entry, so that a capture meets none for the first time."""
        for entry in self.entries:
            self.function(entry)

    def get_global(self, name: str, dtype: npt.DTypeLike | None = None) -> CudaView:
        """Borrow a __device__ or __constant__ variable, as bytes or as elements of `dtype`."""
        held = self._globals.get(name)
        if held is None:
            on = f"{self.name}, {name}"
            try:
                ptr, size = self.context.call(
                    "cuModuleGetGlobal", self._handle(name), name.encode(), on=on
                )
            except DriverError as error:
                if error.code != NOT_FOUND:
                    raise
                raise EntryNotFound(f"{self.name} has no global {name!r}") from error
            held = self._globals.setdefault(name, _Global.of(self, int(ptr), int(size)))
        return held[:] if dtype is None else held.view(dtype)

    def close(self) -> None:
        """Unload; its functions and globals are closed with it. During a capture, after it."""
        self.context.forget_module(self)
        for function in self._functions.values():
            function.dependants.invalidate(f"module {self.name}")
        for held in self._globals.values():
            held.close()
        self.context.give_back(self._owned)

    @property
    def is_closed(self) -> bool:
        return self._owned.is_closed

    def __enter__(self) -> CudaModule:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CudaModule {self.name}{', closed' if self.is_closed else ''}>"
