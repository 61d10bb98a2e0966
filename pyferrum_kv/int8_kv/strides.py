"""Strides of a [tokens, heads, head_dim] tensor inside a flat slice; head_dim is contiguous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyferrum_kv.errors import ArgumentError
from pyferrum_kv.int8_kv.checks import DeviceSlice, check_int

MAX_STRIDE = 2**62


@dataclass(frozen=True, slots=True)
class Strides:
    """Elements from token to token and from head to head, and how many elements that spans."""

    token: int
    head: int
    num_elements: int

    @classmethod
    def checked(
        cls,
        operation: str,
        name: str,
        given: Any,
        shape: tuple[int, int, int],
        *,
        unique: bool = False,
    ) -> Strides:
        """From (token, head), or contiguous for None. `unique`: no two elements may coincide."""
        num_tokens, num_heads, head_dim = shape
        if given is None:
            given = (num_heads * head_dim, head_dim)
        try:
            token, head = given
        except (TypeError, ValueError):
            wanted = "wanted (token stride, head stride) in elements"
            raise ArgumentError(f"{operation}: {name} is {given!r}; {wanted}") from None
        token = check_int(operation, f"{name}[0]", token, 0, MAX_STRIDE)
        head = check_int(operation, f"{name}[1]", head, 0, MAX_STRIDE)
        if unique:
            small, large = sorted(((head, num_heads), (token, num_tokens)))
            row = (small[1] - 1) * small[0] + head_dim if small[1] > 1 else head_dim
            if (small[1] > 1 and small[0] < head_dim) or (large[1] > 1 and large[0] < row):
                raise ArgumentError(
                    f"{operation}: {name} is {(token, head)}; wanted strides with which the rows"
                    f" of [{num_tokens}, {num_heads}, {head_dim}] do not overlap"
                )
        span = 0
        if num_tokens and num_heads:
            span = (num_tokens - 1) * token + (num_heads - 1) * head + head_dim
        return cls(token, head, span)

    def alignment(self, memory: DeviceSlice) -> int:
        """Bytes, up to 16, that divide the address of every row."""
        size = memory.dtype.itemsize
        bits = memory.device_ptr | self.token * size | self.head * size | 16
        return bits & -bits
