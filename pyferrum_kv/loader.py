"""PtxLoader: from an entry's name to a function that is loaded and knows its signature.

The bundle says which variant serves the device and the driver, before anything is loaded; the
context loads each module once. A function is found under a lock the first time, and in a
dictionary after that.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyferrum_kv.bundle import PtxBundle, Variant, select
from pyferrum_kv.errors import CaptureError, NoVariant

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext, CudaFunction


class PtxLoader:
    """The functions of a bundle in a context; PtxLoader.of() gives one object for the two."""

    def __init__(self, context: CudaContext, bundle: PtxBundle) -> None:
        self.context, self.bundle = context, bundle
        self._lock = threading.RLock()
        self._functions: dict[str, CudaFunction] = {}

    @classmethod
    def of(cls, context: CudaContext, bundle: PtxBundle | None = None) -> PtxLoader:
        """The loader of `bundle`, by default the one this package carries, in `context`."""
        bundle = bundle or PtxBundle.default()
        held = context.attachments.get((cls, id(bundle)))
        if held is None:  # the loader holds the bundle, so its id stays its own
            held = context.attachments.setdefault((cls, id(bundle)), cls(context, bundle))
        assert isinstance(held, cls)
        return held

    def function(self, entry: str) -> CudaFunction:
        """The loaded entry; loads its module at the first call. Refused while a capture runs."""
        held = self._functions.get(entry)
        if held is not None and not held.module.is_closed:
            return held
        if self.context.ledger.captures:
            raise CaptureError(
                f"PtxLoader: {entry} is not loaded yet and a capture runs;"
                " call PtxLoader.of(ctx).preload() before it"
            )
        with self._lock:
            held = self._functions.get(entry)
            if held is None or held.module.is_closed:
                held = self._functions[entry] = self._load(entry)
        return held

    def variant(self, entry: str) -> Variant:
        """The variant that serves this device and driver; NoVariant says in words why none does."""
        context = self.context
        return select(
            self.bundle.variants(entry), context.compute_capability, context.api.version, entry
        )

    def serves(self, entry: str) -> bool:
        """Whether this device can run an entry of the bundle.

        An entry for newer devices only is there for Hopper's clusters and bulk copies. The virtual
        device emulates neither, and says so: its TENSOR_MAP_ACCESS_SUPPORTED is 0.
        """
        try:
            self.variant(entry)
        except NoVariant:
            return False
        return not self.bundle.is_newer_only(entry) or bool(
            self.context.attribute("TENSOR_MAP_ACCESS_SUPPORTED")
        )

    def _load(self, entry: str) -> CudaFunction:
        variant, bundle = self.variant(entry), self.bundle
        module = self.context.load_module(
            bundle.ptx(variant.module, variant.target),
            signatures={name: bundle.signature(name) for name in variant.entries},
            name=variant.file,
        )
        return module.function(entry)

    def preload(self, *entries: str) -> None:
        """Load the named entries, or all that this device serves, before a capture asks."""
        for entry in entries or filter(self.serves, self.bundle.entries):
            self.function(entry)

    def explain(self, entry: str) -> str:
        """What would be loaded for an entry, and why."""
        variant = self.variant(entry)
        major, minor = self.context.compute_capability
        version = self.context.api.version
        isa = ".".join(map(str, variant.ptx_version))
        state = "loaded" if entry in self._functions else "not loaded yet"
        return (
            f"{self.bundle.signature(entry)}\n"
            f"{variant.file}: PTX ISA {isa} for {variant.target}, the highest target that serves"
            f" compute capability {major}.{minor} with a driver of CUDA"
            f" {version // 1000}.{version % 1000 // 10}; {state}"
        )

    def __repr__(self) -> str:
        return f"<PtxLoader {len(self._functions)} of {len(self.bundle.entries)} entries loaded>"
