"""The state behind the calls: handles, the threads' contexts, the order of work, the reports."""

from __future__ import annotations

import os
import random
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from pyferrum_kv.virtual.executor_base import KernelFault
from pyferrum_kv.virtual.hazards import AccessHistory
from pyferrum_kv.virtual.memory import MemoryFault
from pyferrum_kv.virtual.objects import Allocation, Context, Device, Pool
from pyferrum_kv.virtual.order import Scheduler, Work
from pyferrum_kv.virtual.report import Report
from pyferrum_kv.virtual.status import Refused

if TYPE_CHECKING:
    from pyferrum_kv.virtual.capture import Capture

T = TypeVar("T")

KEPT_LAUNCHES = 4096
"""Launch facts are kept for the newest so many launches."""

FAULTS = {
    "illegal_address": "ILLEGAL_ADDRESS",
    "use_after_free": "ILLEGAL_ADDRESS",
    "misaligned": "MISALIGNED_ADDRESS",
    "timeout": "LAUNCH_TIMEOUT",
    "trap": "LAUNCH_FAILED",
    "assert": "ASSERT",
    "illegal_instruction": "ILLEGAL_INSTRUCTION",
}
"""Kind of a MemoryFault or KernelFault -> the sticky status."""


class Machine:
    """All devices of one virtual driver; `lock` is held during every call."""

    def __init__(
        self,
        *,
        lazy: bool,
        seed: int,
        on_report: str,
        version: int,
        report_leaks: bool,
        budget: int,
        metrics: bool,
    ) -> None:
        self.lock = threading.RLock()
        self.on_report = on_report
        self.version = version
        self.report_leaks = report_leaks
        self.budget = budget
        self.metrics = metrics
        self.seed = seed
        self.pid: int | None = None  # of the process that called cuInit
        self.devices: list[Device] = []
        self.handles: dict[int, Any] = {}
        self.reports: list[Report] = []
        self.last_error = ""
        self.launches: deque[Any] = deque(maxlen=KEPT_LAUNCHES)
        self.registered: dict[int, Allocation] = {}  # by cuMemHostRegister
        self.host_reads: list[tuple[int, int, Work]] = []  # host bytes that works will read
        self.history = AccessHistory()
        self.captures: list[Capture] = []  # under way
        self.order = Scheduler(lazy, random.Random(seed), self._perform, self.history.clear)
        self._local = threading.local()
        self._next_handle = 0x10000

    # handles

    def new_handle(self) -> int:
        """A number that no other handle of this driver has had."""
        self._next_handle += 0x10
        return self._next_handle

    def register(self, thing: Any) -> int:
        """Enter a thing with a `handle` field in the table."""
        self.handles[thing.handle] = thing
        return int(thing.handle)

    def lookup(self, handle: Any, kind: type[T], *, wrong: str = "INVALID_HANDLE") -> T:
        """The thing behind a handle; refused when it is of another kind, or destroyed."""
        number = 0 if handle is None else int(handle)
        found = self.handles.get(number)
        if not isinstance(found, kind):
            raise Refused(wrong, f"{kind.__name__.lower()} {number:#x} is not one, or is destroyed")
        return found

    # the calling thread's contexts

    @property
    def stack(self) -> list[Context]:
        """The calling thread's context stack."""
        found: list[Context] | None = getattr(self._local, "stack", None)
        if found is None:
            found = self._local.stack = []
        return found

    def thread_number(self) -> int:
        """A number of the calling thread that no later thread gets again."""
        if not hasattr(self._local, "number"):
            self._local.number = self.new_handle()
        return int(self._local.number)

    @property
    def thread_capture_mode(self) -> int:
        """The calling thread's own capture mode; 0 is global."""
        return int(getattr(self._local, "capture_mode", 0))

    @thread_capture_mode.setter
    def thread_capture_mode(self, mode: int) -> None:
        self._local.capture_mode = mode

    def check_initialised(self) -> None:
        if self.pid is None:
            raise Refused("NOT_INITIALIZED", "cuInit was not called")
        if self.pid != os.getpid():
            raise Refused("NOT_INITIALIZED", "cuInit was called before fork()")

    def context(self) -> Context:
        """The current context; refused when there is none, or it is destroyed or lost."""
        if not self.stack:
            raise Refused("INVALID_CONTEXT", "no context is current in this thread")
        context = self.stack[-1]
        if context.destroyed:
            raise Refused("CONTEXT_IS_DESTROYED", "the current context is destroyed")
        self.check_fault(context)
        return context

    def check_fault(self, context: Context) -> None:
        """A sticky error repeats at every call of its context."""
        if context.fault:
            raise Refused(context.fault.name, context.fault.detail)

    # memory

    def pools(self, device: Device) -> list[Pool]:
        return [p for p in self.handles.values() if isinstance(p, Pool) and p.device is device]

    def give(self, allocation: Allocation) -> None:
        """Free device memory."""
        for device in self.devices:
            if device.allocations.get(allocation.address) is allocation:
                del device.allocations[allocation.address]
                device.memory.free(allocation.address)
                if allocation.pool:
                    allocation.pool.used -= allocation.num_bytes

    def release_memory(self, context: Context) -> None:
        """Free what a destroyed context still holds; each is a leak when leaks are looked for."""
        for allocation in list(context.device.allocations.values()):
            if allocation.context is context:
                if self.report_leaks and allocation.kind != "global":
                    self.reports.append(_leak(allocation))
                self.give(allocation)

    def will_read_host(self, work: Work, address: int, num_bytes: int) -> None:
        """Remember that a work not yet done reads these host bytes."""
        if len(self.host_reads) > KEPT_LAUNCHES:
            self.host_reads = [r for r in self.host_reads if not r[2].done]
        self.host_reads.append((address, address + num_bytes, work))

    def host_is_read(self, address: int, num_bytes: int) -> bool:
        """Whether a work not yet done will read these host bytes."""
        self.host_reads = [r for r in self.host_reads if not r[2].done]
        return any(low < address + num_bytes and address < high for low, high, _ in self.host_reads)

    # waiting

    def synchronize(self, context: Context) -> None:
        """Run all that was submitted in a context."""
        for work in self.order.pending(context):
            self.order.wait(work)
        for pool in {context.device.default_pool, context.device.pool}:
            if pool:
                pool.trim(pool.threshold)
        self.check_fault(context)

    def _perform(self, work: Work) -> None:
        context: Context = work.owner
        if context.fault or context.destroyed:
            return
        try:
            accesses = work.op.run()
        except (MemoryFault, KernelFault) as fault:
            self.lose(context, FAULTS.get(fault.kind, "LAUNCH_FAILED"), fault.report)
            return
        except Refused as refused:
            context.fault = context.fault or refused
            self.last_error = refused.detail
            return
        except Exception as error:
            # A fault of this package, not of the program: it is raised, and nothing runs after it.
            context.fault = context.fault or Refused("UNKNOWN", f"virtual device: {error!r}")
            raise
        hazard = self.history.check(work, accesses)
        if hazard:
            self.report(context, hazard)

    def lose(self, context: Context, name: str, report: Report) -> None:
        """End a context with a sticky status; the first cause stays."""
        self.reports.append(report)
        self.last_error = str(report)
        context.fault = context.fault or Refused(name, str(report))

    def report(self, context: Context, report: Report) -> None:
        """A finding that hardware would miss: sticky too, unless findings are only collected."""
        if self.on_report == "error":
            self.lose(context, "LAUNCH_FAILED", report)
        else:
            self.reports.append(report)


def _leak(allocation: Allocation) -> Report:
    return Report(
        kind="leak",
        detail=f"{allocation.num_bytes} bytes of {allocation.kind} memory at "
        f"{allocation.address:#x} were never freed",
        other="the context that they belong to was destroyed",
    )
