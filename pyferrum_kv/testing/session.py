"""Running the checks, and what each is given: a driver, a context, a stream."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

CHAPTERS = ("devices", "memory", "order", "modules", "launches", "graphs", "faults")
"""Modules of this package that hold checks; `faults` ends contexts and is run only when asked."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A check that did not hold: its name, what it says, and where it broke."""

    check: str
    says: str
    trace: str

    def __str__(self) -> str:
        return f"{self.check}: {self.says}\n{self.trace}"


class NotConforming(AssertionError):
    """Some checks did not hold. `failures` lists them."""

    def __init__(self, failures: list[Failure]) -> None:
        self.failures = failures
        super().__init__("\n".join(str(failure) for failure in failures))


class Session:
    """What a check works with. `device`, `context`, `stream` are the driver's own objects."""

    def __init__(self, driver: Any, device: Any, context: Any) -> None:
        self.driver, self.device, self.context = driver, device, context
        self.stream = self.ok(driver.cuStreamCreate(1))  # non-blocking

    def ok(self, answer: tuple[Any, ...]) -> Any:
        """The value or values of a call that must succeed."""
        if answer[0] != self.driver.CUresult.CUDA_SUCCESS:
            why = getattr(self.driver, "last_error", "")
            raise AssertionError(f"{answer[0]!r} {why}")
        if len(answer) <= 2:
            return answer[1] if len(answer) == 2 else None
        return answer[1:]

    def refused(self, answer: tuple[Any, ...], *names: str) -> None:
        """The call must end in one of these errors (without CUDA_ERROR_), and give no values."""
        wanted = [getattr(self.driver.CUresult, f"CUDA_ERROR_{name}") for name in names]
        assert answer[0] in wanted, f"{answer[0]!r}; wanted {' or '.join(names)}"

    def module(self, ptx: str) -> Any:
        return self.ok(self.driver.cuModuleLoadData(ptx.encode() + b"\0"))

    def function(self, ptx: str, entry: str) -> Any:
        return self.ok(self.driver.cuModuleGetFunction(self.module(ptx), entry.encode()))

    def settle(self) -> None:
        """Wait for the default stream: a synchronous fill has only begun when its call returns."""
        self.ok(self.driver.cuStreamSynchronize(self.driver.CUstream(0)))

    def synchronize(self) -> None:
        self.ok(self.driver.cuStreamSynchronize(self.stream))


@contextmanager
def session(driver: Any) -> Iterator[Session]:
    """The primary context of device 0, current here; what was current before is restored."""
    (error,) = driver.cuInit(0)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise AssertionError(f"cuInit: {error!r}")
    device = driver.cuDeviceGet(0)[1]
    context = driver.cuDevicePrimaryCtxRetain(device)[1]
    driver.cuCtxPushCurrent(context)
    try:
        given = Session(driver, device, context)
        yield given
        driver.cuStreamDestroy(given.stream)
    finally:
        driver.cuCtxPopCurrent()
        driver.cuDevicePrimaryCtxRelease(device)


def checks(*, faults: bool = False) -> list[Callable[[Session], None]]:
    """The checks in order. `faults`: also those after which a real GPU needs a new process."""
    found = []
    for chapter in CHAPTERS if faults else CHAPTERS[:-1]:
        module = import_module(f"pyferrum_kv.testing.{chapter}")
        names = [name for name in vars(module) if name.startswith("check_")]
        found += [getattr(module, name) for name in names]
    return found


def check_driver(driver: Any, *, faults: bool = False, only: Collection[str] = ()) -> int:
    """Run every check on `driver`; NotConforming with all failures, else how many held.

    faults: also the checks that end the context. A real GPU needs a process for each of these, so
            name one of them in `only`.
    only:   names of checks; these and no others, whatever `faults` says.

    >>> for check in checks(faults=True)[len(checks()) :]:
    ...     code = f"check_driver(driver, only=[{check.__name__!r}])"  # run each in a new process
    """
    failures = []
    known = {check.__name__: check for check in checks(faults=faults or bool(only))}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(
            f"check_driver: only names {', '.join(unknown)}; checks(faults=True) has all that exist"
        )
    chosen = [known[name] for name in only] or list(known.values())
    for check in chosen:
        try:
            with session(driver) as given:
                check(given)
        except Exception:
            says = (check.__doc__ or "").strip().splitlines()[0]
            failures.append(Failure(check.__name__, says, traceback.format_exc(limit=-2)))
    if failures:
        raise NotConforming(failures)
    return len(chosen)
