"""What the driver's error codes mean, and what to do next: a table that needs no libcuda.

`cuGetErrorString` fails without a driver, and says less. Codes outside the table keep their name.
"""

from __future__ import annotations

SUCCESS = 0
INVALID_VALUE = 1
NO_DEVICE = 100
INVALID_DEVICE = 101
INVALID_CONTEXT = 201
INVALID_HANDLE = 400
NOT_FOUND = 500
NOT_READY = 600
PEER_ACCESS_ALREADY_ENABLED = 704
NOT_SUPPORTED = 801

STICKY = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721})
"""After one of these every later call on the context fails with it."""

CAPTURE = frozenset(range(900, 909))
"""A capturing stream was in the way."""

LOADING = frozenset({200, 209, 218, 221, 222, 223, 225, 227, 300, 301, 302, 303})
"""The driver did not take a module."""

# code -> (name, meaning, next step)
_CODES: dict[int, tuple[str, str, str]] = {
    1: ("INVALID_VALUE", "an argument is outside its range", ""),
    2: (
        "OUT_OF_MEMORY",
        "not enough free memory",
        "free slices, or trim the pool: ctx.mem_pool().trim(0)",
    ),
    3: ("NOT_INITIALIZED", "the driver is not initialised in this process", ""),
    4: ("DEINITIALIZED", "the driver is shutting down", ""),
    34: (
        "STUB_LIBRARY",
        "the libcuda found is the linker's stub",
        "take the stubs folder out of LD_LIBRARY_PATH",
    ),
    36: ("CALL_REQUIRES_NEWER_DRIVER", "this driver has no such call", "update the driver"),
    46: ("DEVICE_UNAVAILABLE", "another process holds the device exclusively", "see nvidia-smi"),
    100: ("NO_DEVICE", "no CUDA device is visible", "check nvidia-smi and CUDA_VISIBLE_DEVICES"),
    101: ("INVALID_DEVICE", "there is no device of that ordinal", ""),
    200: ("INVALID_IMAGE", "the image is neither PTX nor a cubin that this driver knows", ""),
    201: ("INVALID_CONTEXT", "no context, or another one, is current on this thread", ""),
    205: ("MAP_FAILED", "mapping failed", ""),
    209: (
        "NO_BINARY_FOR_GPU",
        "the image holds no code for this device",
        "load PTX, or a cubin of its architecture",
    ),
    214: (
        "ECC_UNCORRECTABLE",
        "an uncorrectable memory error occurred",
        "see nvidia-smi -q -d ECC",
    ),
    215: ("UNSUPPORTED_LIMIT", "this device has no such limit", ""),
    217: (
        "PEER_ACCESS_UNSUPPORTED",
        "these two devices cannot reach each other's memory",
        "copy through the host",
    ),
    218: ("INVALID_PTX", "the PTX does not compile for this device", "the JIT log says where"),
    220: ("NVLINK_UNCORRECTABLE", "an uncorrectable NVLink error occurred", ""),
    221: (
        "JIT_COMPILER_NOT_FOUND",
        "libnvidia-ptxjitcompiler.so is missing",
        "install the whole driver package",
    ),
    222: (
        "UNSUPPORTED_PTX_VERSION",
        "the PTX ISA is newer than this driver reads",
        "update the driver, or rebuild with python build_ptx.py and an older NVRTC",
    ),
    223: (
        "JIT_COMPILATION_DISABLED",
        "JIT compilation is switched off",
        "unset CUDA_DISABLE_PTX_JIT",
    ),
    226: ("CONTAINED", "a contained memory error ended the context", ""),
    300: ("INVALID_SOURCE", "the kernel source is invalid", ""),
    301: ("FILE_NOT_FOUND", "the file was not found", ""),
    304: ("OPERATING_SYSTEM", "an operating system call failed", ""),
    400: (
        "INVALID_HANDLE",
        "the handle is not, or no longer, one of the driver's in this context",
        "",
    ),
    401: ("ILLEGAL_STATE", "a resource is not in the state that the call needs", ""),
    500: ("NOT_FOUND", "the named symbol was not found", ""),
    600: ("NOT_READY", "the work is not complete yet", ""),
    700: (
        "ILLEGAL_ADDRESS",
        "a kernel read or wrote memory that is not allocated",
        "run it on the virtual device, or under compute-sanitizer",
    ),
    701: (
        "LAUNCH_OUT_OF_RESOURCES",
        "too many threads or registers, or too much shared memory, for one CTA",
        "",
    ),
    702: ("LAUNCH_TIMEOUT", "a kernel ran longer than the display's watchdog allows", ""),
    704: ("PEER_ACCESS_ALREADY_ENABLED", "peer access is on already", ""),
    705: ("PEER_ACCESS_NOT_ENABLED", "peer access is not on", "ctx.enable_peer_access(other)"),
    708: (
        "PRIMARY_CONTEXT_ACTIVE",
        "the primary context is in use",
        "set flags before the first use",
    ),
    709: ("CONTEXT_IS_DESTROYED", "the context was destroyed", ""),
    710: ("ASSERT", "an assert in a kernel failed", "stderr has its text"),
    714: ("HARDWARE_STACK_ERROR", "a kernel ran off its stack", ""),
    715: ("ILLEGAL_INSTRUCTION", "a kernel executed an illegal instruction", ""),
    716: (
        "MISALIGNED_ADDRESS",
        "a kernel accessed memory off its alignment",
        "run it on the virtual device, or under compute-sanitizer",
    ),
    717: ("INVALID_ADDRESS_SPACE", "a kernel used an address of the wrong state space", ""),
    718: ("INVALID_PC", "a kernel's program counter left its code", ""),
    719: ("LAUNCH_FAILED", "a kernel ended in an exception", "run it under compute-sanitizer"),
    720: (
        "COOPERATIVE_LAUNCH_TOO_LARGE",
        "the grid of a cooperative launch does not fit on the device at once",
        "function.occupancy.max_cooperative_blocks says what does",
    ),
    721: ("TENSOR_MEMORY_LEAK", "a kernel did not free its tensor memory", ""),
    800: (
        "NOT_PERMITTED",
        "the call is not permitted here",
        "the driver takes no calls from a host function",
    ),
    801: ("NOT_SUPPORTED", "this driver or device does not support the call", ""),
    802: (
        "SYSTEM_NOT_READY",
        "the system's GPU services are not ready",
        "start nvidia-fabricmanager",
    ),
    803: (
        "SYSTEM_DRIVER_MISMATCH",
        "libcuda and the kernel module are of different versions",
        "reload the module, or reboot",
    ),
    804: (
        "COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "the compatibility libcuda does not serve this device",
        "take it out of LD_LIBRARY_PATH",
    ),
    900: (
        "STREAM_CAPTURE_UNSUPPORTED",
        "the call is not permitted while a stream captures",
        "do it before the capture",
    ),
    901: (
        "STREAM_CAPTURE_INVALIDATED",
        "an earlier error invalidated the capture",
        "capture again",
    ),
    902: ("STREAM_CAPTURE_MERGE", "two captures would merge", ""),
    903: ("STREAM_CAPTURE_UNMATCHED", "this stream did not begin the capture", ""),
    904: (
        "STREAM_CAPTURE_UNJOINED",
        "a stream forked into the capture was not joined back",
        "stream.join(forked) before the capture ends",
    ),
    905: (
        "STREAM_CAPTURE_ISOLATION",
        "work inside the capture depends on work outside it",
        "wait for it before the capture",
    ),
    906: (
        "STREAM_CAPTURE_IMPLICIT",
        "the default stream would join the capture",
        "use a stream of ctx.new_stream()",
    ),
    907: ("CAPTURED_EVENT", "the event was recorded inside a capture", "use another event outside"),
    908: (
        "STREAM_CAPTURE_WRONG_THREAD",
        "another thread began the capture",
        "end it there, or capture in relaxed mode",
    ),
    909: ("TIMEOUT", "a wait timed out", ""),
    910: (
        "GRAPH_EXEC_UPDATE_FAILURE",
        "the graphs differ in more than their arguments",
        "capture a new graph",
    ),
    912: (
        "INVALID_CLUSTER_SIZE",
        "the device cannot run clusters of that size",
        "8 CTAs are portable; more needs non_portable_cluster_size",
    ),
    913: (
        "FUNCTION_NOT_LOADED",
        "the function is not loaded yet",
        "module.preload() before the capture",
    ),
    999: ("UNKNOWN", "the driver gives no reason", "see dmesg for an Xid"),
}


def explain_code(code: int, name: str = "") -> tuple[str, str, str]:
    """Return name, meaning and next step of a CUresult; `name` is what the bindings call it."""
    short, meaning, hint = _CODES.get(code, ("", "the driver manual has no more to say", ""))
    return name or f"CUDA_ERROR_{short or code}", meaning, hint
