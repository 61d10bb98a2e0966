"""What the driver tells of a function's parameters, and whether it agrees with the signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.codes import INVALID_VALUE, NOT_SUPPORTED
from pyferrum_kv.errors import ArgumentError, DriverError, DriverNotFound
from pyferrum_kv.signature import Param, ParamKind, Signature

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext


def signature_from_driver(
    context: CudaContext, function: Any, entry: str, count: int | None
) -> Signature | None:
    """Offsets and sizes by cuFuncGetParamInfo; None from a driver older than CUDA 12.4.

    `count` is what the PTX says. Without it the driver is asked until it refuses, which memory
    checkers list as an error.
    """
    params: list[Param] = []
    while count is None or len(params) < count:
        position = len(params)
        try:
            offset, size = context.call(
                "cuFuncGetParamInfo", function, position, on=f"{entry}, {position}"
            )
        except DriverNotFound:
            return None
        except DriverError as error:
            if error.code == INVALID_VALUE:  # past the last one
                break
            if error.code == NOT_SUPPORTED:
                return None
            raise
        kind: ParamKind = "bits" if size in (1, 2, 4, 8) else "struct"
        params.append(Param(f"param_{position}", kind, int(size), int(offset)))
    return Signature(entry, tuple(params))


def agreed(entry: str, known: Signature | None, told: Signature | None) -> Signature | None:
    """The signature to pack by; ArgumentError where the driver counts or places otherwise."""
    if known is None or told is None:
        return known or told
    if not _alike(known.params, told.params):
        ours = [(p.offset, p.size_bytes) for p in known.params]
        drivers = [(p.offset, p.size_bytes) for p in told.params]
        raise ArgumentError(
            f"{entry}: the signature is not the loaded code's: {known} has parameters at (offset,"
            f" bytes) {ours}, the driver counts {drivers}; rebuild with python build_ptx.py"
        )
    return known


def _alike(ours: tuple[Param, ...], drivers: tuple[Param, ...]) -> bool:
    """Sizes in order, and offsets as far as the driver tells them from where we do.

    A driver's parameter area begins where only 16-byte alignment is sure (seen on an H100: at byte
    528), so a struct aligned to more lies up to 48 bytes nearer than the PTX says. Launches give
    each parameter by its own address: their offsets are ours.
    """
    if [p.size_bytes for p in ours] != [p.size_bytes for p in drivers]:
        return False
    shift = 0
    for mine, other in zip(ours, drivers, strict=True):
        if mine.kind == "struct" and mine.offset % 32 == 0:
            shift = mine.offset - other.offset
        if mine.offset - other.offset != shift or shift not in (-48, -32, -16, 0, 16, 32, 48):
            return False
    return True
