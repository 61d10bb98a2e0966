"""Functions: attributes, parameters, occupancy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.modules import ModuleCalls, param_info
from pyferrum_kv.virtual.modules import DEFAULT_DYNAMIC_SHARED, Entry, Function
from pyferrum_kv.virtual.occupancy import (
    Multiprocessor,
    available_dynamic_shared,
    max_active_ctas,
)
from pyferrum_kv.virtual.registers import estimated_registers
from pyferrum_kv.virtual.status import Refused

ATTRIBUTE = real.CUfunction_attribute
MAX_DYNAMIC = ATTRIBUTE.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
SETTABLE = {
    int(ATTRIBUTE.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT): -1,
    int(ATTRIBUTE.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED): 0,
    int(ATTRIBUTE.CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE): 0,
    int(ATTRIBUTE.CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH): 0,
    int(ATTRIBUTE.CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT): 0,
    int(ATTRIBUTE.CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH): 0,
}
"""Attributes that are remembered as they were set, and their values before."""


class FunctionCalls(ModuleCalls):
    """cuFunc*, cuKernelGetAttribute, cuOccupancy*."""

    @driver_call(1)
    def cuFuncGetAttribute(self, attrib: Any, hfunc: Any) -> int:
        return self._get(attrib, self._function(hfunc))

    @driver_call()
    def cuFuncSetAttribute(self, hfunc: Any, attrib: Any, value: int) -> None:
        self._set(attrib, value, self._function(hfunc))

    @driver_call(1)
    def cuKernelGetAttribute(self, attrib: Any, kernel: Any, dev: Any) -> int:
        return self._get(attrib, self._function(self.machine.lookup(kernel, Entry).handle))

    @driver_call()
    def cuKernelSetAttribute(self, attrib: Any, val: int, kernel: Any, dev: Any) -> None:
        self._set(attrib, val, self._function(self.machine.lookup(kernel, Entry).handle))

    def _get(self, attrib: Any, function: Function) -> int:
        kernel, attributes = function.kernel, function.module.context.device.attributes
        number = int(attrib)
        if number in SETTABLE:
            return function.settings.get(number, SETTABLE[number])
        facts = {
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: self._max_threads(function),
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: kernel.static_shared_bytes,
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: self._const_bytes(function),
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: kernel.local_bytes,
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_NUM_REGS: estimated_registers(kernel),
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_PTX_VERSION: _target_number(function),
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_BINARY_VERSION: attributes["COMPUTE_CAPABILITY_MAJOR"] * 10
            + attributes["COMPUTE_CAPABILITY_MINOR"],
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_CACHE_MODE_CA: 0,
            MAX_DYNAMIC: max_dynamic_shared(function),
            ATTRIBUTE.CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET: 0,
        }
        if attrib not in facts:
            raise Refused("INVALID_VALUE", f"{attrib!r}: not emulated by the virtual device")
        return int(facts[attrib])

    def _set(self, attrib: Any, value: int, function: Function) -> None:
        attributes = function.module.context.device.attributes
        if attrib == MAX_DYNAMIC:
            optin = attributes["MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"]
            room = optin - function.kernel.static_shared_bytes
            if not 0 <= value <= room:
                raise Refused(
                    "INVALID_VALUE", f"{value} bytes of dynamic shared memory; at most {room}"
                )
        elif int(attrib) not in SETTABLE:
            raise Refused("INVALID_VALUE", f"{attrib!r} cannot be set")
        function.settings[int(attrib)] = value

    def _max_threads(self, function: Function) -> int:
        attributes = function.module.context.device.attributes
        return min(function.kernel.max_threads or 1024, attributes["MAX_THREADS_PER_BLOCK"])

    def _const_bytes(self, function: Function) -> int:
        program = function.module.program
        return sum(v.num_bytes for v in program.globals.values() if v.space == "const")

    @driver_call()
    def cuFuncSetCacheConfig(self, hfunc: Any, config: Any) -> None:
        self._function(hfunc).cache_config = int(config)

    @driver_call(1)
    def cuFuncGetModule(self, hfunc: Any) -> Any:
        return real.CUmodule(self._function(hfunc).module.handle)

    @driver_call(1)
    def cuFuncGetName(self, hfunc: Any) -> bytes:
        return self._function(hfunc).name.encode()

    @driver_call(2)
    def cuFuncGetParamInfo(self, func: Any, paramIndex: int) -> tuple[int, int]:
        return param_info(self._function(func).kernel, paramIndex)

    @driver_call(1)
    def cuFuncGetParamCount(self, func: Any) -> int:
        return len(self._function(func).kernel.signature.params)

    @driver_call(1)
    def cuFuncIsLoaded(self, function: Any) -> Any:
        self._function(function)
        return real.CUfunctionLoadingState.CU_FUNCTION_LOADING_STATE_LOADED

    @driver_call()
    def cuFuncLoad(self, function: Any) -> None:
        self._function(function)

    # occupancy

    @driver_call(1)
    def cuOccupancyMaxActiveBlocksPerMultiprocessor(
        self, func: Any, blockSize: int, dynamicSMemSize: int
    ) -> int:
        return self._active(self._function(func), blockSize, dynamicSMemSize)

    @driver_call(1)
    def cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        self, func: Any, blockSize: int, dynamicSMemSize: int, flags: int
    ) -> int:
        return self._active(self._function(func), blockSize, dynamicSMemSize)

    @driver_call(1)
    def cuOccupancyAvailableDynamicSMemPerBlock(
        self, func: Any, numBlocks: int, blockSize: int
    ) -> int:
        function = self._function(func)
        if numBlocks <= 0 or blockSize <= 0:
            raise Refused("INVALID_VALUE", f"{numBlocks} CTAs of {blockSize} threads")
        static, largest = function.kernel.static_shared_bytes, max_dynamic_shared(function)
        return available_dynamic_shared(_sm(function), numBlocks, static, largest)

    @driver_call(2)
    def cuOccupancyMaxPotentialBlockSize(
        self,
        func: Any,
        blockSizeToDynamicSMemSize: Any,
        dynamicSMemSize: int,
        blockSizeLimit: int,
    ) -> tuple[int, int]:
        return self._potential(func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit)

    @driver_call(2)
    def cuOccupancyMaxPotentialBlockSizeWithFlags(
        self,
        func: Any,
        blockSizeToDynamicSMemSize: Any,
        dynamicSMemSize: int,
        blockSizeLimit: int,
        flags: int,
    ) -> tuple[int, int]:
        return self._potential(func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit)

    @driver_call(1)
    def cuOccupancyMaxActiveClusters(self, func: Any, config: Any) -> int:
        function = self._function(func)
        size = max(1, _cluster_size(config))
        threads = config.blockDimX * config.blockDimY * config.blockDimZ
        active = self._active(function, threads, config.sharedMemBytes)
        return active * function.module.context.device.attributes["MULTIPROCESSOR_COUNT"] // size

    @driver_call(1)
    def cuOccupancyMaxPotentialClusterSize(self, func: Any, config: Any) -> int:
        self._function(func)
        return 8  # the portable size; 16 needs an opt-in that the virtual device has no use for

    def _active(self, function: Function, block_size: int, dynamic: int) -> int:
        if block_size <= 0:
            raise Refused("INVALID_VALUE", f"block size {block_size}")
        if block_size > self._max_threads(function) or dynamic > max_dynamic_shared(function):
            return 0
        shared = function.kernel.static_shared_bytes + dynamic
        return max_active_ctas(
            _sm(function), block_size, estimated_registers(function.kernel), shared
        )

    def _potential(self, func: Any, to_shared: Any, dynamic: int, limit: int) -> tuple[int, int]:
        """The largest block size among those that keep the most threads active."""
        function = self._function(func)
        attributes = function.module.context.device.attributes
        shared_for = _shared_for(to_shared, dynamic)
        most = min(limit or attributes["MAX_THREADS_PER_BLOCK"], self._max_threads(function))
        best = (0, 0, 0)
        for size in sorted({most, *range(32, most + 1, 32)}, reverse=True):
            active = self._active(function, size, shared_for(size))
            if active * size > best[0]:
                best = (active * size, active, size)
        return best[1] * attributes["MULTIPROCESSOR_COUNT"], best[2]


def max_dynamic_shared(function: Function) -> int:
    """Dynamic shared bytes that a launch of it may use now."""
    default = DEFAULT_DYNAMIC_SHARED - function.kernel.static_shared_bytes
    return function.settings.get(int(MAX_DYNAMIC), max(0, default))


def _sm(function: Function) -> Multiprocessor:
    return Multiprocessor.of(function.module.context.device.attributes)


def _shared_for(callback: Any, constant: int) -> Callable[[int], int]:
    address = 0 if callback is None else int(callback)
    if not address:
        return lambda size: constant
    call = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int)(address)
    return lambda size: int(call(size))


def _cluster_size(config: Any) -> int:
    wanted = real.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    for attribute in list(config.attrs or ())[: config.numAttrs]:
        if attribute.id == wanted:
            dim = attribute.value.clusterDim
            return int(dim.x * dim.y * dim.z)
    return 1


def _target_number(function: Function) -> int:
    return int(function.module.program.target.removeprefix("sm_").rstrip("af"))
