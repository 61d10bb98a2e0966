"""Modules, libraries, and finding functions and globals in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cuda.bindings import driver as real

from pyferrum_kv.virtual.calls.base import driver_call
from pyferrum_kv.virtual.calls.memory import MemoryCalls
from pyferrum_kv.virtual.modules import (
    Entry,
    Function,
    Library,
    Module,
    image_text,
    read_program,
    write_log,
)
from pyferrum_kv.virtual.objects import Context, Device
from pyferrum_kv.virtual.program import Program
from pyferrum_kv.virtual.status import Refused


class ModuleCalls(MemoryCalls):
    """cuModule*, cuLibrary*, cuKernelGetFunction and its kin."""

    @driver_call(1)
    def cuModuleLoadData(self, image: Any) -> Any:
        return self._load(image)

    @driver_call(1)
    def cuModuleLoadDataEx(
        self, image: Any, numOptions: int, options: Any, optionValues: Any
    ) -> Any:
        chosen = list(options or ())[:numOptions], list(optionValues or ())[:numOptions]
        return self._load(image, *chosen)

    @driver_call(1)
    def cuModuleLoadFatBinary(self, fatCubin: Any) -> Any:
        return self._load(fatCubin)

    @driver_call(1)
    def cuModuleLoad(self, fname: bytes) -> Any:
        return self._load(_file(fname))

    def _load(self, image: Any, options: Any = (), values: Any = ()) -> Any:
        self._unsafe_while_capturing()
        context = self.machine.context()
        program = self._program(image, context.device, options, values)
        return real.CUmodule(self._module(program, context).handle)

    def _program(self, image: Any, device: Device, options: Any, values: Any) -> Program:
        try:
            cc = (
                device.attributes["COMPUTE_CAPABILITY_MAJOR"],
                device.attributes["COMPUTE_CAPABILITY_MINOR"],
            )
            program = read_program(image_text(image), cc, self.machine.version)
        except Refused as refused:
            write_log(options, values, refused.detail, error=True)
            raise
        write_log(options, values, "", error=True)
        write_log(options, values, f"{len(program.kernels)} entries", error=False)
        return program

    def _module(self, program: Program, context: Context) -> Module:
        module = Module(self.machine.new_handle(), context, program)
        for name, variable in program.globals.items():
            if variable.is_extern:
                raise Refused("INVALID_PTX", f"{name} is .extern: nothing defines it")
            module.globals[name] = self._take(context, max(1, variable.num_bytes), "global")
        for name, variable in program.globals.items():
            content = bytearray(variable.init.ljust(variable.num_bytes, b"\0"))
            for offset, symbol, _ in variable.relocations:
                target = module.globals[symbol.name].address + symbol.offset
                content[offset : offset + 8] = target.to_bytes(8, "little")
            context.device.memory.write(module.globals[name].address, content)
        context.owned[module.handle] = module
        self.machine.register(module)
        return module

    @driver_call()
    def cuModuleUnload(self, hmod: Any) -> None:
        self._unsafe_while_capturing()
        self._unload(self.machine.lookup(hmod, Module))

    def _unload(self, module: Module) -> None:
        if not module.context.destroyed:
            for work in self.machine.order.pending(module.context):
                self.machine.order.wait(work)
            for taken in module.globals.values():
                self._give(taken)
        for function in module.functions.values():
            self.machine.handles.pop(function.handle, None)
            module.context.owned.pop(function.handle, None)
        module.context.owned.pop(module.handle, None)
        self.machine.handles.pop(module.handle, None)

    @driver_call(1)
    def cuModuleGetFunction(self, hmod: Any, name: bytes) -> Any:
        return real.CUfunction(self._function_of(self.machine.lookup(hmod, Module), name).handle)

    def _function_of(self, module: Module, name: bytes) -> Function:
        text = _until_nul(name)
        found = module.functions.get(text)
        if found:
            return found
        kernel = module.program.kernels.get(text)
        if kernel is None:
            raise Refused("NOT_FOUND", f"the module has no entry {text}")
        if kernel.unsupported:
            line, form = kernel.unsupported[0]
            raise Refused(
                "NOT_SUPPORTED", f"line {line}: {form}: not emulated by the virtual device"
            )
        function = Function(self.machine.new_handle(), kernel, module)
        module.functions[text] = function
        module.context.owned[function.handle] = function
        self.machine.register(function)
        return function

    @driver_call(1)
    def cuModuleGetFunctionCount(self, mod: Any) -> int:
        return len(self.machine.lookup(mod, Module).program.kernels)

    @driver_call(1)
    def cuModuleEnumerateFunctions(self, numFunctions: int, mod: Any) -> list[Any]:
        module = self.machine.lookup(mod, Module)
        names = list(module.program.kernels)[:numFunctions]
        return [real.CUfunction(self._function_of(module, n.encode()).handle) for n in names]

    @driver_call(2)
    def cuModuleGetGlobal(self, hmod: Any, name: bytes) -> tuple[Any, int]:
        return self._global_of(self.machine.lookup(hmod, Module), name)

    def _global_of(self, module: Module, name: bytes) -> tuple[Any, int]:
        taken = module.globals.get(_until_nul(name))
        if taken is None:
            raise Refused("NOT_FOUND", f"the module has no variable {name.decode()}")
        return real.CUdeviceptr(taken.address), taken.num_bytes

    @driver_call(1, needs="nothing")
    def cuModuleGetLoadingMode(self) -> Any:
        return real.CUmoduleLoadingMode.CU_MODULE_EAGER_LOADING

    # libraries

    @driver_call(1, needs="init")
    def cuLibraryLoadData(
        self,
        code: Any,
        jitOptions: Any,
        jitOptionsValues: Any,
        numJitOptions: int,
        libraryOptions: Any,
        libraryOptionValues: Any,
        numLibraryOptions: int,
    ) -> Any:
        options = list(jitOptions or ())[:numJitOptions]
        values = list(jitOptionsValues or ())[:numJitOptions]
        return self._library(code, options, values)

    @driver_call(1, needs="init")
    def cuLibraryLoadFromFile(
        self,
        fileName: bytes,
        jitOptions: Any,
        jitOptionsValues: Any,
        numJitOptions: int,
        libraryOptions: Any,
        libraryOptionValues: Any,
        numLibraryOptions: int,
    ) -> Any:
        options = list(jitOptions or ())[:numJitOptions]
        values = list(jitOptionsValues or ())[:numJitOptions]
        return self._library(_file(fileName), options, values)

    def _library(self, code: Any, options: list[Any], values: list[Any]) -> Any:
        program = self._program(code, self.machine.devices[0], options, values)
        library = Library(self.machine.new_handle(), program)
        return real.CUlibrary(self.machine.register(library))

    @driver_call(needs="init")
    def cuLibraryUnload(self, library: Any) -> None:
        found = self.machine.lookup(library, Library)
        for module in found.modules.values():
            self._unload(module)
        for entry in found.kernels.values():
            self.machine.handles.pop(entry.handle, None)
        del self.machine.handles[found.handle]

    @driver_call(1)
    def cuLibraryGetModule(self, library: Any) -> Any:
        return real.CUmodule(self._module_of(self.machine.lookup(library, Library)).handle)

    def _module_of(self, library: Library) -> Module:
        context = self.machine.context()
        module = library.modules.get(context.handle)
        if module is None or module.handle not in self.machine.handles:
            module = library.modules[context.handle] = self._module(library.program, context)
        return module

    @driver_call(1, needs="init")
    def cuLibraryGetKernel(self, library: Any, name: bytes) -> Any:
        return real.CUkernel(self._entry(self.machine.lookup(library, Library), name).handle)

    def _entry(self, library: Library, name: bytes) -> Entry:
        text = _until_nul(name)
        if text not in library.program.kernels:
            raise Refused("NOT_FOUND", f"the library has no entry {text}")
        if text not in library.kernels:
            entry = library.kernels[text] = Entry(self.machine.new_handle(), library, text)
            self.machine.register(entry)
        return library.kernels[text]

    @driver_call(1, needs="init")
    def cuLibraryGetKernelCount(self, lib: Any) -> int:
        return len(self.machine.lookup(lib, Library).program.kernels)

    @driver_call(1, needs="init")
    def cuLibraryEnumerateKernels(self, numKernels: int, lib: Any) -> list[Any]:
        library = self.machine.lookup(lib, Library)
        names = list(library.program.kernels)[:numKernels]
        return [real.CUkernel(self._entry(library, n.encode()).handle) for n in names]

    @driver_call(2)
    def cuLibraryGetGlobal(self, library: Any, name: bytes) -> tuple[Any, int]:
        return self._global_of(self._module_of(self.machine.lookup(library, Library)), name)

    @driver_call(1)
    def cuKernelGetFunction(self, kernel: Any) -> Any:
        return real.CUfunction(self._function(self.machine.lookup(kernel, Entry).handle).handle)

    @driver_call(1, needs="init")
    def cuKernelGetLibrary(self, kernel: Any) -> Any:
        return real.CUlibrary(self.machine.lookup(kernel, Entry).library.handle)

    @driver_call(1, needs="init")
    def cuKernelGetName(self, hfunc: Any) -> bytes:
        return self.machine.lookup(hfunc, Entry).name.encode()

    @driver_call(2, needs="init")
    def cuKernelGetParamInfo(self, kernel: Any, paramIndex: int) -> tuple[int, int]:
        entry = self.machine.lookup(kernel, Entry)
        return param_info(entry.library.program.kernels[entry.name], paramIndex)

    @driver_call(1, needs="init")
    def cuKernelGetParamCount(self, kernel: Any) -> int:
        entry = self.machine.lookup(kernel, Entry)
        return len(entry.library.program.kernels[entry.name].signature.params)

    def _function(self, handle: Any) -> Function:
        """The function of a CUfunction, or of a CUkernel in the current context."""
        found = self.machine.handles.get(int(handle))
        if isinstance(found, Entry):
            return self._function_of(self._module_of(found.library), found.name.encode())
        return self.machine.lookup(handle, Function)


def param_info(kernel: Any, index: int) -> tuple[int, int]:
    """Offset and size of a parameter, as cuFuncGetParamInfo says them."""
    params = kernel.signature.params
    if not 0 <= index < len(params):
        raise Refused("INVALID_VALUE", f"parameter {index}; {kernel.name} has {len(params)}")
    return params[index].offset, params[index].size_bytes


def _until_nul(name: bytes) -> str:
    """A C string: the driver reads no further than its NUL."""
    return name.split(b"\0", 1)[0].decode()


def _file(name: bytes) -> bytes:
    try:
        return Path(name.decode()).read_bytes() + b"\0"
    except OSError as error:
        raise Refused("FILE_NOT_FOUND", str(error)) from None
