"""Record what a real device says it is, for pyferrum_kv/virtual/attributes.json.

    python tests/virtual/snapshot.py --record     # on a machine with a GPU: replaces its snapshot
    python tests/virtual/snapshot.py --compare    # says what differs, exits 1 when something does

What is the machine's own (PCI and NUMA numbers, MPS) or not emulated is left as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cuda.bindings import driver as real

SNAPSHOTS = Path(__file__).resolve().parents[2] / "pyferrum_kv" / "virtual" / "attributes.json"
OF_THE_MACHINE = {
    "GPU_PCI_DEVICE_ID", "GPU_PCI_SUBSYSTEM_ID", "HOST_NUMA_ID", "MPS_ENABLED",
    "MULTI_GPU_BOARD_GROUP_ID", "NUMA_ID", "PCI_BUS_ID", "PCI_DEVICE_ID", "PCI_DOMAIN_ID",
}  # fmt: skip
NOT_EMULATED = (
    "HANDLE_TYPE", "GPU_DIRECT_RDMA", "DMA_BUF", "IPC_", "CIG_", "VIRTUAL_ADDRESS", "MULTICAST",
    "STREAM_MEM_OPS", "STREAM_WAIT_VALUE", "SPARSE_", "TIMELINE_", "MEM_DECOMPRESS", "HOST_NUMA_",
    "LOGICAL_ENDPOINT", "GENERIC_COMPRESSION", "DEFERRED_MAPPING", "UNIFIED_FUNCTION",
    "SUPPORTED_HANDLE_TYPES", "FLUSH_REMOTE", "HOST_MEMORY_POOLS", "HOST_VIRTUAL", "HOST_ALLOC",
    "LOCALITY_DOMAIN", "PAGEABLE_MEMORY", "DIRECT_MANAGED", "READ_ONLY_HOST",
)  # fmt: skip
"""Features that the virtual device does not have: it must not say that it has them."""


def ok(answer: tuple[Any, ...]) -> Any:
    if answer[0] != real.CUresult.CUDA_SUCCESS:
        raise SystemExit(f"the driver answered {answer[0]!r}")
    return answer[1] if len(answer) == 2 else answer[1:]


def measured() -> tuple[str, dict[str, Any]]:
    """The name of device 0's snapshot ("sm_90"), and the snapshot."""
    ok(real.cuInit(0))
    device = ok(real.cuDeviceGet(0))
    context = ok(real.cuDevicePrimaryCtxRetain(device))
    ok(real.cuCtxSetCurrent(context))
    attributes: dict[str, int] = {}
    for name, member in real.CUdevice_attribute.__members__.items():
        status, value = real.cuDeviceGetAttribute(member, device)
        short = name.removeprefix("CU_DEVICE_ATTRIBUTE_")
        if status == real.CUresult.CUDA_SUCCESS and short != "MAX":
            attributes[short] = value
    limits = {}
    for name, member in real.CUlimit.__members__.items():
        status, value = real.cuCtxGetLimit(member)
        if status == real.CUresult.CUDA_SUCCESS:
            limits[name] = value
    least, greatest = ok(real.cuCtxGetStreamPriorityRange())
    sm = f"sm_{attributes['COMPUTE_CAPABILITY_MAJOR']}{attributes['COMPUTE_CAPABILITY_MINOR']}"
    name = ok(real.cuDeviceGetName(128, device)).split(b"\0")[0].decode()
    version = ok(real.cuDriverGetVersion())
    ok(real.cuDevicePrimaryCtxRelease(device))
    return sm, {
        "device": f"{name}, recorded with a driver of CUDA {version // 1000}.{version // 10 % 100}",
        "limits": limits,
        "stream_priorities": [least, greatest],
        "attributes": attributes,
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The measured snapshot, but for what is the machine's own or not emulated."""
    before = old.get("attributes", {})
    kept = {
        name: before.get(name, 0)
        for name in sorted({*before, *new["attributes"]})
        if name in OF_THE_MACHINE or any(part in name for part in NOT_EMULATED)
    }
    return new | {"attributes": dict(sorted((new["attributes"] | kept).items()))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--record", action="store_true")
    action.add_argument("--compare", action="store_true")
    chosen = parser.parse_args()
    snapshots = json.loads(SNAPSHOTS.read_text("utf-8"))
    sm, new = measured()
    old = snapshots.get(sm, {})
    snapshot = merged(old, new)
    differences = [
        f"{name}: {old.get('attributes', {}).get(name)} -> {value}"
        for name, value in snapshot["attributes"].items()
        if old.get("attributes", {}).get(name) != value
    ]
    sys.stdout.write("\n".join([f"{sm}: {snapshot['device']}", *differences, ""]))
    if chosen.record:
        snapshots[sm] = snapshot
        SNAPSHOTS.write_text(json.dumps(snapshots, indent=1) + "\n", "utf-8")
        return 0
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
