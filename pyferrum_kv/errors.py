"""Every error of this package.

FerrumError
├── DriverNotFound        no NVIDIA driver library, or one too old for the bindings
├── DeviceNotFound        the driver is there and the device asked for is not
├── DriverError           a driver call returned an error code
│   ├── ModuleLoadError   the driver did not take a module; carries the JIT log
│   └── ContextLost       a sticky error ended the context; carries the first cause
├── ClosedError           a context, stream, slice, module or graph was used after close()
├── WrongContextError     objects of two contexts met in one call
├── ForkedProcessError    the driver was initialised before fork(); the child cannot use it
├── CaptureError          something that a capturing stream cannot do
├── ArgumentError         a wrong argument, refused before the launch (also a ValueError)
├── BundleError           the PTX bundle cannot be used
│   ├── BundleNotFound    no manifest where one is looked for
│   ├── BundleCorrupt     a file is missing, altered or malformed
│   ├── EntryNotFound     the bundle or module has no such entry (also a LookupError)
│   └── NoVariant         no variant of the module suits the device and the driver
└── BuildError            build time only
    ├── NvrtcNotFound     NVRTC is missing, or not the version the build asks for
    └── CompileError      NVRTC refused a source; carries its log
"""

from __future__ import annotations


class FerrumError(Exception):
    """The root: whatever this package raises on purpose is one of these."""


class DriverNotFound(FerrumError):
    """No NVIDIA driver library was found, or it is too old for the bindings."""


class DeviceNotFound(FerrumError):
    """The driver is there; the device asked for is not."""


class DriverError(FerrumError):
    """A driver call returned an error code.

    Attributes: `call` (driver function), `on` (what it was called on, may be empty), `code` (int),
    `name` (CUDA_ERROR_...), `meaning` (one sentence), `hint` (next step, may be empty).
    """

    def __init__(
        self, call: str, code: int, name: str, meaning: str, *, on: str = "", hint: str = ""
    ) -> None:
        self.call, self.code, self.name, self.meaning = call, code, name, meaning
        self.on, self.hint = on, hint
        text = f"{call}({on}): {name} ({code}): {meaning}"
        super().__init__(f"{text}; {hint}" if hint else text)


class ModuleLoadError(DriverError):
    """The driver did not take a module. `log` is what its JIT compiler wrote, or empty."""

    def __init__(
        self,
        call: str,
        code: int,
        name: str,
        meaning: str,
        *,
        on: str = "",
        hint: str = "",
        log: str = "",
    ) -> None:
        self.log = log
        logged = f"JIT log:\n{log}" if log else ""
        super().__init__(
            call, code, name, meaning, on=on, hint="\n".join(p for p in (hint, logged) if p)
        )


class ContextLost(DriverError):
    """A sticky error ended the context: every later call fails. `first_cause` says what did it."""

    def __init__(
        self, call: str, code: int, name: str, meaning: str, *, on: str = "", first_cause: str = ""
    ) -> None:
        self.first_cause = first_cause
        super().__init__(
            call,
            code,
            name,
            meaning,
            on=on,
            hint=f"the context is lost since {first_cause}; "
            "start a new process to use the GPU again",
        )


class ClosedError(FerrumError):
    """A context, stream, slice, module or graph was used after close()."""


class WrongContextError(FerrumError):
    """Objects of two contexts met in one call."""


class ForkedProcessError(FerrumError):
    """The driver was initialised before fork(): the child process cannot use it."""


class CaptureError(FerrumError):
    """Something was asked that a capturing stream cannot do."""


class ArgumentError(FerrumError, ValueError):
    """A wrong argument, refused before the launch: `operation: argument is value; wanted ...`."""


class BundleError(FerrumError):
    """The PTX bundle cannot be used."""


class BundleNotFound(BundleError):
    """No manifest lies where one is looked for."""


class BundleCorrupt(BundleError):
    """A file of the bundle is missing, altered or malformed."""


class EntryNotFound(BundleError, LookupError):
    """The bundle or the module has no such entry."""


class NoVariant(BundleError):
    """No variant of the module suits the device and the driver."""


class BuildError(FerrumError):
    """Something that only building PTX can meet."""


class NvrtcNotFound(BuildError):
    """NVRTC is missing, or is not the version that the build asks for."""


class CompileError(BuildError):
    """NVRTC refused a source. `log` is what it wrote; `options` what it was given."""

    def __init__(self, source: str, options: tuple[str, ...], log: str) -> None:
        self.source, self.options, self.log = source, options, log
        super().__init__(f"{source}: NVRTC refused it with {' '.join(options)}:\n{log}")
