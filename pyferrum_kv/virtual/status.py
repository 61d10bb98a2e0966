"""The status in front of every driver call's answer: names, sentences, the exception inside.

Inside the virtual device a call that cannot be done raises `Refused`; at its edge (`calls/base.py`)
that becomes the tuple that `cuda.bindings.driver` would return.
"""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as real

CUresult: Any = real.CUresult
SUCCESS: Any = CUresult.CUDA_SUCCESS


def code(name: str) -> Any:
    """The CUresult of a short name: "INVALID_VALUE", "ILLEGAL_ADDRESS"."""
    return getattr(CUresult, f"CUDA_ERROR_{name}")


class Refused(Exception):
    """A call ends with `name`, a CUresult without its CUDA_ERROR_; `detail` is for people."""

    def __init__(self, name: str, detail: str = "") -> None:
        self.name, self.detail = name, detail
        super().__init__(f"CUDA_ERROR_{name}: {detail}" if detail else f"CUDA_ERROR_{name}")


SENTENCES = {
    0: "no error",
    1: "invalid argument",
    2: "out of memory",
    3: "initialization error",
    4: "driver shutting down",
    36: "API call is not supported in the installed CUDA driver",
    100: "no CUDA-capable device is detected",
    101: "invalid device ordinal",
    200: "device kernel image is invalid",
    201: "invalid device context",
    205: "mapping of buffer object failed",
    208: "resource already mapped",
    209: "no kernel image is available for execution on the device",
    215: "limit is not supported on this architecture",
    216: "exclusive-thread device already in use by a different thread",
    217: "peer access is not supported between these two devices",
    218: "a PTX JIT compilation failed",
    221: "PTX JIT compiler library not found",
    222: "the provided PTX was compiled with an unsupported toolchain.",
    300: "device kernel image is invalid",
    301: "file not found",
    304: "OS call failed or operation not supported on this OS",
    400: "invalid resource handle",
    401: "the operation cannot be performed in the present state",
    500: "named symbol not found",
    600: "device not ready",
    700: "an illegal memory access was encountered",
    701: "too many resources requested for launch",
    702: "the launch timed out and was terminated",
    704: "peer access is already enabled",
    705: "peer access has not been enabled",
    708: "cannot set while device is active in this process",
    709: "context is destroyed",
    710: "device-side assert triggered",
    712: "part or all of the requested memory range is already mapped",
    713: "pointer does not correspond to a registered memory region",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
    720: "too many blocks in cooperative launch",
    800: "operation not permitted",
    801: "operation not supported",
    900: "operation not permitted when stream is capturing",
    901: "operation failed due to a previous error during capture",
    902: "operation would result in a merge of separate capture sequences",
    903: "capture was not ended in the same stream as it began",
    904: "capturing stream has unjoined work",
    905: "dependency created on uncaptured work in another stream",
    906: "operation would make the legacy stream depend on a capturing blocking stream",
    907: "operation not permitted on an event last recorded in a capturing stream",
    908: "attempt to terminate a thread-local capture sequence from another thread",
    909: "wait operation timed out",
    910: "the graph update was not performed because it included changes which violated "
    "constraints specific to instantiated graph update",
    912: "cluster misconfiguration",
    913: "cannot find function: it is not loaded",
    999: "unknown error",
}


def name_of(error: Any) -> str | None:
    """ "CUDA_ERROR_INVALID_VALUE" of a CUresult or its number; None for what is no status."""
    try:
        return str(CUresult(int(error)).name)
    except ValueError:
        return None


def sentence_of(error: Any) -> str | None:
    """What the driver says of a status, or its name where the table has no sentence."""
    return SENTENCES.get(int(error)) or name_of(error)
