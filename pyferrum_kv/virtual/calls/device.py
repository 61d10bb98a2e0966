"""Initialisation, versions, errors' names, devices."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import Calls, driver_call
from pyferrum_kv.virtual.status import Refused, name_of, sentence_of

_NAMES: dict[int, tuple[str, ...]] = {}
"""Number of a CUdevice_attribute -> its names: some have an old and a new one."""
for _name, _member in real.CUdevice_attribute.__members__.items():
    _short = _name.removeprefix("CU_DEVICE_ATTRIBUTE_")
    _NAMES[int(_member)] = (*_NAMES.get(int(_member), ()), _short)


class DeviceCalls(Calls):
    """cuInit, cuDriverGetVersion, cuGetError*, cuDevice* but contexts and pools."""

    @driver_call(needs="nothing")
    def cuInit(self, Flags: int) -> None:
        if Flags:
            raise Refused("INVALID_VALUE", f"Flags is {Flags}; wanted 0")
        if not self.machine.devices:
            raise Refused("NO_DEVICE", "device_count is 0")
        if self.machine.pid not in (None, os.getpid()):
            raise Refused("NOT_INITIALIZED", "cuInit was called before fork()")
        self.machine.pid = os.getpid()

    @driver_call(1, needs="nothing")
    def cuDriverGetVersion(self) -> int:
        return self.machine.version

    @driver_call(1, needs="nothing")
    def cuGetErrorName(self, error: Any) -> bytes:
        name = name_of(error)
        if name is None:
            raise Refused("INVALID_VALUE", f"{int(error)} is no CUresult")
        return name.encode()

    @driver_call(1, needs="nothing")
    def cuGetErrorString(self, error: Any) -> bytes:
        sentence = sentence_of(error)
        if sentence is None:
            raise Refused("INVALID_VALUE", f"{int(error)} is no CUresult")
        return sentence.encode()

    @driver_call(1, needs="init")
    def cuDeviceGetCount(self) -> int:
        return len(self.machine.devices)

    @driver_call(1, needs="init")
    def cuDeviceGet(self, ordinal: int) -> Any:
        return real.CUdevice(self._device(ordinal).ordinal)

    @driver_call(1, needs="init")
    def cuDeviceGetName(self, length: int, dev: Any) -> bytes:
        return self._device(dev).name.encode()[: max(0, length - 1)]

    @driver_call(1, needs="init")
    def cuDeviceGetUuid(self, dev: Any) -> Any:
        return self._uuid(dev)

    def _uuid(self, dev: Any) -> Any:
        uuid = real.CUuuid()
        content = b"pyferrum-kv-vir" + bytes([self._device(dev).ordinal])
        ctypes.memmove(uuid.getPtr(), content, 16)
        return uuid

    @driver_call(1, needs="init")
    def cuDeviceTotalMem(self, dev: Any) -> int:
        return self._device(dev).memory.capacity_bytes

    @driver_call(1, needs="init")
    def cuDeviceGetAttribute(self, attrib: Any, dev: Any) -> int:
        device, names = self._device(dev), _NAMES.get(int(attrib), ())
        for name in names:
            if name in device.attributes:
                return device.attributes[name]
        raise Refused("INVALID_VALUE", f"the snapshot of {device.name} has no {names or attrib!r}")

    @driver_call(2, needs="init")
    def cuDeviceComputeCapability(self, dev: Any) -> tuple[int, int]:
        attributes = self._device(dev).attributes
        return attributes["COMPUTE_CAPABILITY_MAJOR"], attributes["COMPUTE_CAPABILITY_MINOR"]

    @driver_call(1, needs="init")
    def cuDeviceGetPCIBusId(self, length: int, dev: Any) -> bytes:
        return f"0000:{self._device(dev).ordinal:02X}:00.0".encode()[: max(0, length - 1)]

    @driver_call(1, needs="init")
    def cuDeviceGetByPCIBusId(self, pciBusId: bytes) -> Any:
        try:
            ordinal = int(pciBusId.split(b":")[1], 16)
        except (IndexError, ValueError):
            raise Refused("INVALID_VALUE", f"PCI bus id {pciBusId!r}") from None
        return real.CUdevice(self._device(ordinal).ordinal)

    @driver_call(1, needs="init")
    def cuDeviceCanAccessPeer(self, dev: Any, peerDev: Any) -> int:
        return int(self._device(dev) is not self._device(peerDev))

    @driver_call(1, needs="init")
    def cuDeviceGetP2PAttribute(self, attrib: Any, srcDevice: Any, dstDevice: Any) -> int:
        source, target = self._device(srcDevice), self._device(dstDevice)
        if source is target:
            raise Refused("INVALID_DEVICE", "a device has no peer relation with itself")
        rank = real.CUdevice_P2PAttribute.CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK
        return 0 if attrib == rank else 1

    @driver_call(needs="nothing")
    def cuProfilerStart(self) -> None: ...

    @driver_call(needs="nothing")
    def cuProfilerStop(self) -> None: ...
