"""The edge of the virtual device: bodies that return values or raise, callers that get tuples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from pyferrum_kv.virtual.machine import Machine
from pyferrum_kv.virtual.objects import LEGACY_STREAM, PER_THREAD_STREAM, Context, Device, Stream
from pyferrum_kv.virtual.status import SUCCESS, Refused, code

P = ParamSpec("P")
C = TypeVar("C", bound="Calls")


class Calls:
    """What every group of calls needs: the machine, and its things by handle."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def _device(self, dev: Any) -> Device:
        ordinal = int(dev)
        if not 0 <= ordinal < len(self.machine.devices):
            raise Refused("INVALID_DEVICE", f"device {ordinal}; {len(self.machine.devices)} exist")
        return self.machine.devices[ordinal]

    def _context(self, handle: Any) -> Context:
        context = self.machine.lookup(handle, Context, wrong="INVALID_CONTEXT")
        if context.destroyed:
            raise Refused("CONTEXT_IS_DESTROYED", f"context {context.handle:#x} is destroyed")
        return context

    def _stream(self, handle: Any) -> Stream:
        """The stream of a handle; 0 and 1 are the legacy default stream, 2 the thread's own."""
        number = 0 if handle is None else int(handle)
        if number in (0, LEGACY_STREAM):
            return default_stream(self.machine, self.machine.context())
        if number == PER_THREAD_STREAM:
            return per_thread_stream(self.machine, self.machine.context())
        stream = self.machine.lookup(number, Stream)
        if stream.context.destroyed:
            raise Refused("CONTEXT_IS_DESTROYED", f"the context of stream {number:#x} is destroyed")
        return stream


def driver_call(
    values: int = 0, *, needs: str = "context"
) -> Callable[[Callable[Concatenate[C, P], Any]], Callable[Concatenate[C, P], tuple[Any, ...]]]:
    """Make a body a driver call that returns `(CUresult, *values)`.

    needs: "nothing", "init" (cuInit was called here) or "context" (a usable one is current).
    """

    def wrap(
        body: Callable[Concatenate[C, P], Any],
    ) -> Callable[Concatenate[C, P], tuple[Any, ...]]:
        @functools.wraps(body)
        def call(self: C, /, *args: P.args, **kwargs: P.kwargs) -> tuple[Any, ...]:
            machine = self.machine
            with machine.lock:
                try:
                    if needs != "nothing":
                        machine.check_initialised()
                    if needs == "context":
                        machine.context()
                    answer = body(self, *args, **kwargs)
                except Refused as refused:
                    if refused.name != "NOT_READY":
                        machine.last_error = f"{body.__name__}: {refused}"
                    return (code(refused.name), *[None] * values)
            if values == 0:
                return (SUCCESS,)
            return (SUCCESS, answer) if values == 1 else (SUCCESS, *answer)

        return call

    return wrap


def default_stream(machine: Machine, context: Context) -> Stream:
    """The legacy default stream of a context."""
    if context.legacy is None:
        lane = machine.order.new_lane()
        context.legacy = Stream(LEGACY_STREAM, context, 0, 0, lane)
    return context.legacy


def per_thread_stream(machine: Machine, context: Context) -> Stream:
    """The calling thread's default stream in a context."""
    thread = machine.thread_number()
    if thread not in context.per_thread:
        stream = Stream(PER_THREAD_STREAM, context, 0, 0, machine.order.new_lane())
        context.per_thread[thread] = stream
    return context.per_thread[thread]
