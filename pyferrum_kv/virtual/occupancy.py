"""How many CTAs fit on a multiprocessor: the documented formula (CUDA's occupancy calculator).

Registers go to warps in units of 256 and a multiprocessor has four register files; shared memory
goes to CTAs in units of 128 bytes, and the system takes 1 KiB of each CTA's.
"""

from __future__ import annotations

from dataclasses import dataclass

REGISTER_UNIT = 256
REGISTER_FILES = 4
SHARED_UNIT = 128


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What one multiprocessor has to give."""

    max_threads: int
    max_ctas: int
    registers: int
    shared_bytes: int
    reserved_shared_bytes: int  # of each CTA
    warp_size: int = 32

    @classmethod
    def of(cls, attributes: dict[str, int]) -> Multiprocessor:
        return cls(
            max_threads=attributes["MAX_THREADS_PER_MULTIPROCESSOR"],
            max_ctas=attributes["MAX_BLOCKS_PER_MULTIPROCESSOR"],
            registers=attributes["MAX_REGISTERS_PER_MULTIPROCESSOR"],
            shared_bytes=attributes["MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"],
            reserved_shared_bytes=attributes["RESERVED_SHARED_MEMORY_PER_BLOCK"],
            warp_size=attributes["WARP_SIZE"],
        )


def max_active_ctas(
    sm: Multiprocessor, num_threads: int, registers_per_thread: int, shared_bytes: int
) -> int:
    """CTAs of `num_threads` with `shared_bytes` (static and dynamic) that run at once."""
    warps = -(-num_threads // sm.warp_size)
    by_warps = sm.max_threads // sm.warp_size // warps
    per_warp = _round_up(registers_per_thread * sm.warp_size, REGISTER_UNIT)
    warps_per_file = sm.registers // REGISTER_FILES // per_warp if per_warp else sm.max_threads
    by_registers = warps_per_file * REGISTER_FILES // warps
    taken = _round_up(shared_bytes + sm.reserved_shared_bytes, SHARED_UNIT)
    by_shared = sm.shared_bytes // taken if taken else sm.max_ctas
    return min(by_warps, by_registers, by_shared, sm.max_ctas)


def available_dynamic_shared(
    sm: Multiprocessor, num_ctas: int, static_bytes: int, largest: int
) -> int:
    """Dynamic bytes that each of `num_ctas` CTAs on a multiprocessor may use, at most `largest`."""
    share = sm.shared_bytes // num_ctas // SHARED_UNIT * SHARED_UNIT
    return max(0, min(share - sm.reserved_shared_bytes - static_bytes, largest))


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
