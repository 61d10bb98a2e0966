"""VirtualDriver: an object with the names, signatures and types of `cuda.bindings.driver`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from cuda.bindings import driver as real

from pyferrum_kv.virtual.arena import HostVisibleMemory
from pyferrum_kv.virtual.attributes import snapshot_of
from pyferrum_kv.virtual.calls.versions import BINDINGS_12, Calls12, Calls13
from pyferrum_kv.virtual.launches import Launched
from pyferrum_kv.virtual.machine import Machine
from pyferrum_kv.virtual.objects import Context, Device
from pyferrum_kv.virtual.report import Report
from pyferrum_kv.virtual.run import DEFAULT_BUDGET
from pyferrum_kv.virtual.status import code

DEFAULT_MEMORY = 256 << 20


class VirtualDriver:
    """A CUDA driver whose devices are computed on the CPU.

    cc:            (9, 0) or (8, 0)   what the devices say they are
    sanitize:      bool   look for races, uninitialised reads, missing waits
    lazy:          bool   work happens when somebody waits for it; False: at the call
    memory:        int    bytes of each device
    sm_count:      int    multiprocessors of each device; None: the real one's
    on_report:     "error"    a finding ends the context, as a fault does: no test passes by luck
                   "collect"  a finding is only added to `reports`
    seed:          int    of the choice among what is ready to run: operations, and with it CTAs
    device_count:  int
    driver_version: int   what cuDriverGetVersion says
    report_leaks:  bool   memory alive when its context is destroyed is a finding
    budget:        int    SIMT instructions of a launch before it counts as hanging
    metrics:       bool   count bytes, sectors and bank conflicts of every launch

    Every `cu*` name is a driver call that returns `(CUresult, ...)`; every other name of
    `cuda.bindings.driver` is its own type or constant. A call that is not emulated returns
    CUDA_ERROR_NOT_SUPPORTED, and `last_error` names it.
    """

    def __init__(
        self,
        cc: tuple[int, int] = (9, 0),
        *,
        sanitize: bool = True,
        lazy: bool = True,
        memory: int = DEFAULT_MEMORY,
        sm_count: int | None = None,
        on_report: Literal["error", "collect"] = "error",
        seed: int = 0,
        device_count: int = 1,
        driver_version: int = 13000,
        report_leaks: bool = False,
        budget: int = DEFAULT_BUDGET,
        metrics: bool = False,
    ) -> None:
        if on_report not in ("error", "collect"):
            raise ValueError(f"VirtualDriver: on_report is {on_report!r}; wanted error or collect")
        self.machine = Machine(
            lazy=lazy,
            seed=seed,
            on_report=on_report,
            version=driver_version,
            report_leaks=report_leaks,
            budget=budget,
            metrics=metrics,
        )
        for ordinal in range(device_count):
            snapshot = snapshot_of(cc, sm_count)
            snapshot.attributes["PCI_BUS_ID"] = ordinal
            device = Device(
                ordinal,
                HostVisibleMemory(memory, sanitize),
                snapshot,
                f"pyferrum virtual sm_{cc[0]}{cc[1]} (CPU)",
            )
            self.machine.devices.append(device)
        self._calls = (Calls12 if BINDINGS_12 else Calls13)(self.machine)

    @property
    def reports(self) -> list[Report]:
        """What the sanitiser found so far, faults included."""
        return self.machine.reports

    @property
    def last_error(self) -> str:
        """The call that failed last and why, in words."""
        return self.machine.last_error

    @property
    def launches(self) -> list[Launched]:
        """The launches that ran, oldest first."""
        return list(self.machine.launches)

    @property
    def metrics(self) -> Launched | None:
        """The newest launch that ran, with its counts; None before the first."""
        return self.machine.launches[-1] if self.machine.launches else None

    def finish(self) -> None:
        """Run what nobody waited for and destroy all contexts, which reports leaks if asked to."""
        with self.machine.lock:
            for context in [c for c in self.machine.handles.values() if isinstance(c, Context)]:
                if not context.destroyed:
                    self._calls.destroy(context)
            for device in self.machine.devices:
                device.primary_count = 0

    def __getattr__(self, name: str) -> Any:
        """A driver call, or whatever else `cuda.bindings.driver` has under that name."""
        if name.startswith("_") or name == "machine":
            raise AttributeError(name)
        value = getattr(real, name)
        if name.startswith("cu") and not isinstance(value, type):
            value = getattr(self._calls, name, None) or self._not_emulated(name)
        self.__dict__[name] = value  # next time without this function
        return value

    def _not_emulated(self, name: str) -> Callable[..., tuple[Any, ...]]:
        def not_emulated(*_: Any, **__: Any) -> tuple[Any, ...]:
            self.machine.last_error = f"{name}: not emulated by the virtual device"
            return (code("NOT_SUPPORTED"), *[None] * _values(name))

        return not_emulated


def _values(name: str) -> int:
    """How many values the real call returns beside the status, as its docstring lists them."""
    returns = (getattr(real, name).__doc__ or "").split("Returns\n")[-1]
    return sum(" : " in line and not line.startswith(" ") for line in returns.splitlines())
