"""The seam: an `Api` over an object with the names of cuda.bindings.driver makes all driver calls.

The real module is one such object, `pyferrum_kv.virtual.VirtualDriver` another. A call takes what
the binding takes; its status tuple becomes a value, or an error that names the call.
"""

from __future__ import annotations

import importlib
import os
import threading
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

from pyferrum_kv.driver.codes import CAPTURE, INVALID_DEVICE, NO_DEVICE, NOT_SUPPORTED, explain_code
from pyferrum_kv.driver.direct import GraphLaunch, LaunchEx
from pyferrum_kv.errors import (
    ArgumentError,
    CaptureError,
    DeviceNotFound,
    DriverError,
    DriverNotFound,
    ForkedProcessError,
)


class Api:
    """A driver, initialised: calls by name, its version and its enums.

    `primaries` holds the contexts opened through it, one an ordinal; `orphans` the handles of
    created contexts that were dropped without close(), to be destroyed at the next opening.
    """

    def __init__(self, raw: Any, name: str) -> None:
        self.raw = raw
        self.name = name
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.primaries: dict[int, Any] = {}
        self.orphans: list[Any] = []
        self.call("cuInit", 0, on=name)

    def call(self, name: str, *args: Any, on: str = "") -> Any:
        """Call the driver function `name`: None, a value, or a tuple of values.

        `on` says in an error what the call was about.
        """
        if os.getpid() != self.pid:
            raise forked_error(name)
        try:
            result = getattr(self.raw, name)(*args)
        except AttributeError as error:
            if hasattr(self.raw, name):
                raise
            raise self.error(name, NOT_SUPPORTED, on) from error
        except RuntimeError as error:
            raise _translated(name, self.name, error) from error
        if result[0]:
            raise self.error(name, result[0], on)
        return None if len(result) == 1 else result[1] if len(result) == 2 else result[1:]

    def error(self, call: str, status: Any, on: str = "", hint: str = "") -> Exception:
        """The exception for a CUresult that is not success."""
        code = int(status)
        name, meaning, next_step = explain_code(code, getattr(status, "name", ""))
        hint = hint or next_step
        if code in CAPTURE:
            text = f"{call}({on}): {name} ({code}): {meaning}"
            return CaptureError(f"{text}; {hint}" if hint else text)
        if code in (NO_DEVICE, INVALID_DEVICE):
            text = f"{call}({on}): {name}: {meaning}"
            return DeviceNotFound(f"{text}; {hint}" if hint else text)
        return DriverError(call, code, name, meaning, on=on, hint=hint)

    @cached_property
    def launch_ex(self) -> LaunchEx:
        """The way that launches take to this driver; the shortest that there is."""
        return LaunchEx.of(self.raw)

    @cached_property
    def graph_launch(self) -> GraphLaunch:
        """The same for graphs of one launch."""
        return GraphLaunch.of(self.raw)

    @cached_property
    def version(self) -> int:
        """The newest CUDA version that the driver serves: 13000 is 13.0."""
        return int(self.call("cuDriverGetVersion", on=self.name))

    @cached_property
    def bindings_version(self) -> int:
        """The CUDA version whose signatures the bindings have: 12090 is 12.9."""
        return int(self.raw.CUDA_VERSION)

    def enum(self, type_name: str, prefix: str, member: Any) -> Any:
        """A member of a driver enum by its short name, its full name, or itself."""
        kind = getattr(self.raw, type_name)
        if not isinstance(member, str):
            return member
        for name in (prefix + member.upper(), member):
            if name in kind.__members__:
                return kind.__members__[name]  # the bindings' enums take no subscript
        known = ", ".join(sorted(n.removeprefix(prefix) for n in kind.__members__))
        raise ArgumentError(f"{type_name}: {member!r} is no member; wanted one of {known}")


def forked_error(doing: str) -> ForkedProcessError:
    """The error for a child of fork() that uses its parent's driver."""
    return ForkedProcessError(
        f"{doing}: the driver was initialised before this process was forked, and does not survive"
        " that; open the context after fork(), or start processes with the spawn method"
    )


def _translated(call: str, driver: str, error: RuntimeError) -> Exception:
    """The bindings report a missing library or symbol as RuntimeError, at the call."""
    kind, text = type(error).__name__, str(error)
    if kind == "FunctionNotFoundError":
        return DriverNotFound(
            f"{call}: this driver is too old and has no such function; update it ({text})"
        )
    if kind == "DynamicLibNotFoundError" or "dlopen" in text or "cuGetProcAddress" in text:
        return DriverNotFound(
            f"{call}: no usable NVIDIA driver: {text}\n"
            "Install a driver of R525 or later (CUDA 12.0), or try the virtual device:"
            ' CudaContext.new(driver="virtual")'
        )
    return error


_LOCK = threading.Lock()
_BY_NAME: dict[str, Api] = {}
_BY_OBJECT: WeakValueDictionary[int, Api] = (
    WeakValueDictionary()
)  # an Api holds its object: the id stays its own


def open_driver(driver: Any = None) -> Api:
    """Open a driver: "cuda", "virtual", or an object with the names of cuda.bindings.driver.

    None means what PYFERRUM_KV_DRIVER says, or "cuda". Every opening of one driver gives one Api.
    """
    if isinstance(driver, Api):
        return driver
    if driver is None:
        driver = os.environ.get("PYFERRUM_KV_DRIVER") or "cuda"
    with _LOCK:
        if isinstance(driver, str):
            held = _BY_NAME.get(driver)
            if held is None:
                held = _BY_NAME[driver] = Api(_named(driver), driver)
            elif held.pid != os.getpid():
                raise forked_error("open_driver")
            return held
        held = _BY_OBJECT.get(id(driver))
        if held is None:
            held = _BY_OBJECT[id(driver)] = Api(driver, type(driver).__name__)
        return held


def _named(driver: str) -> Any:
    if driver == "cuda":
        try:
            return importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DriverNotFound(
                "open_driver: the CUDA bindings are not installed; pip install cuda-python"
            ) from error
    if driver == "virtual":
        return importlib.import_module("pyferrum_kv.virtual").VirtualDriver()
    raise ArgumentError(
        f"open_driver: driver is {driver!r}; wanted 'cuda', 'virtual', or an object with the names"
        " of cuda.bindings.driver"
    )
