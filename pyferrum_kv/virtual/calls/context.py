"""Contexts: primary and created, the thread's stack of them, limits, peer access."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import Calls, default_stream, driver_call
from pyferrum_kv.virtual.objects import Context, Device
from pyferrum_kv.virtual.status import Refused


class ContextCalls(Calls):
    """cuDevicePrimaryCtx*, cuCtx*."""

    @driver_call(1, needs="init")
    def cuDevicePrimaryCtxRetain(self, dev: Any) -> Any:
        device = self._device(dev)
        if device.primary is None or device.primary.destroyed:
            device.primary = self._make(device, device.primary_flags, is_primary=True)
        device.primary_count += 1
        return real.CUcontext(device.primary.handle)

    @driver_call(needs="init")
    def cuDevicePrimaryCtxRelease(self, dev: Any) -> None:
        device = self._device(dev)
        if not device.primary_count or device.primary is None:
            raise Refused("INVALID_CONTEXT", "the primary context is not retained")
        device.primary_count -= 1
        if not device.primary_count:
            self.destroy(device.primary)

    @driver_call(needs="init")
    def cuDevicePrimaryCtxReset(self, dev: Any) -> None:
        device = self._device(dev)
        if device.primary and not device.primary.destroyed:
            self.destroy(device.primary)
        device.primary_count = 0

    @driver_call(needs="init")
    def cuDevicePrimaryCtxSetFlags(self, dev: Any, flags: int) -> None:
        device = self._device(dev)
        device.primary_flags = flags
        if device.primary and not device.primary.destroyed:
            device.primary.flags = flags

    @driver_call(2, needs="init")
    def cuDevicePrimaryCtxGetState(self, dev: Any) -> tuple[int, int]:
        device = self._device(dev)
        active = device.primary is not None and not device.primary.destroyed
        return device.primary_flags, int(active)

    def _create(self, flags: int, dev: Any) -> Any:
        """cuCtxCreate, whose argument list depends on the bindings: see versions.py."""
        context = self._make(self._device(dev), flags, is_primary=False)
        self.machine.stack.append(context)
        return real.CUcontext(context.handle)

    @driver_call(needs="init")
    def cuCtxDestroy(self, ctx: Any) -> None:
        context = self._context(ctx)
        if context.is_primary:
            raise Refused("INVALID_CONTEXT", "a primary context is released, not destroyed")
        self.destroy(context)
        if self.machine.stack and self.machine.stack[-1] is context:
            self.machine.stack.pop()

    @driver_call(1, needs="init")
    def cuCtxGetCurrent(self) -> Any:
        stack = self.machine.stack
        return real.CUcontext(stack[-1].handle if stack else 0)

    @driver_call(needs="init")
    def cuCtxSetCurrent(self, ctx: Any) -> None:
        stack = self.machine.stack
        if ctx is None or int(ctx) == 0:
            if stack:
                stack.pop()
            return
        stack[-1:] = [self._context(ctx)]

    @driver_call(needs="init")
    def cuCtxPushCurrent(self, ctx: Any) -> None:
        self.machine.stack.append(self._context(ctx))

    @driver_call(1, needs="init")
    def cuCtxPopCurrent(self) -> Any:
        if not self.machine.stack:
            raise Refused("INVALID_CONTEXT", "no context is current in this thread")
        return real.CUcontext(self.machine.stack.pop().handle)

    @driver_call(1)
    def cuCtxGetDevice(self) -> Any:
        return real.CUdevice(self.machine.context().device.ordinal)

    @driver_call(1)
    def cuCtxGetFlags(self) -> int:
        return self.machine.context().flags

    @driver_call()
    def cuCtxSetFlags(self, flags: int) -> None:
        self.machine.context().flags = flags

    @driver_call(1, needs="init")
    def cuCtxGetId(self, ctx: Any) -> int:
        number = 0 if ctx is None else int(ctx)
        return (self._context(ctx) if number else self.machine.context()).handle

    @driver_call(1, needs="init")
    def cuCtxGetApiVersion(self, ctx: Any) -> int:
        return self.machine.version

    @driver_call()
    def cuCtxSynchronize(self) -> None:
        context = self.machine.context()
        self._forbid_while_capturing(context)
        self.machine.synchronize(context)

    def _forbid_while_capturing(self, context: Context) -> None:
        for stream in (default_stream(self.machine, context), *context.streams):
            if stream.capture:
                stream.capture.invalid = True
                raise Refused("STREAM_CAPTURE_UNSUPPORTED", "a stream of the context is capturing")

    @driver_call(1)
    def cuCtxGetLimit(self, limit: Any) -> int:
        context = self.machine.context()
        if int(limit) not in context.limits:
            raise Refused("UNSUPPORTED_LIMIT", f"{limit!r}")
        return context.limits[int(limit)]

    @driver_call()
    def cuCtxSetLimit(self, limit: Any, value: int) -> None:
        context = self.machine.context()
        if int(limit) not in context.limits:
            raise Refused("UNSUPPORTED_LIMIT", f"{limit!r}")
        context.limits[int(limit)] = value

    @driver_call(1)
    def cuCtxGetCacheConfig(self) -> Any:
        return real.CUfunc_cache(self.machine.context().cache_config)

    @driver_call()
    def cuCtxSetCacheConfig(self, config: Any) -> None:
        self.machine.context().cache_config = int(config)

    @driver_call(2)
    def cuCtxGetStreamPriorityRange(self) -> tuple[int, int]:
        return self.machine.context().device.snapshot.stream_priorities

    @driver_call()
    def cuCtxResetPersistingL2Cache(self) -> None: ...

    @driver_call()
    def cuCtxEnablePeerAccess(self, peerContext: Any, Flags: int) -> None:
        context, peer = self.machine.context(), self._context(peerContext)
        if peer.device is context.device:
            raise Refused("INVALID_DEVICE", "peer access within one device")
        if peer.handle in context.peers:
            raise Refused("PEER_ACCESS_ALREADY_ENABLED")
        context.peers.add(peer.handle)

    @driver_call()
    def cuCtxDisablePeerAccess(self, peerContext: Any) -> None:
        context, peer = self.machine.context(), self._context(peerContext)
        if peer.handle not in context.peers:
            raise Refused("PEER_ACCESS_NOT_ENABLED")
        context.peers.remove(peer.handle)

    def _make(self, device: Device, flags: int, *, is_primary: bool) -> Context:
        if is_primary and device.primary:
            # The primary context keeps its handle through release and retain, as on hardware: a
            # thread that has it current can go on.
            context = device.primary
            context.destroyed, context.flags = False, flags
        else:
            context = Context(self.machine.new_handle(), device, flags, is_primary)
        known = real.CUlimit.__members__
        limits = device.snapshot.limits.items()
        context.limits = {int(known[name]): value for name, value in limits if name in known}
        self.machine.register(context)
        return context

    def destroy(self, context: Context) -> None:
        """Finish its work, then end all that was made in it."""
        machine = self.machine
        for work in machine.order.pending(context):
            machine.order.wait(work)
        context.destroyed = True
        for handle in [s.handle for s in context.streams] + list(context.owned):
            machine.handles.pop(handle, None)
        context.streams.clear()
        context.owned.clear()
        context.peers.clear()
        context.per_thread.clear()
        context.legacy, context.fault = None, None
        machine.release_memory(context)
