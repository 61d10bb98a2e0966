"""Small PTX kernels for the tests of the machine: written in a line or two, run on arrays."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from pyferrum_kv.virtual.memory import Memory
from pyferrum_kv.virtual.parser import parse_ptx
from pyferrum_kv.virtual.program import Program
from pyferrum_kv.virtual.report import Report
from pyferrum_kv.virtual.run import LaunchFacts, launch

DECLARATIONS = (
    ".reg .pred p, q, r; .reg .b16 h<9>; .reg .b32 t, c, n, w<33>; .reg .b64 x<17>, A, B, C, D;\n"
    ".reg .f32 f<17>; .reg .f64 g<9>;\n"
    "ld.param.u64 A, [pa]; ld.param.u64 B, [pb]; ld.param.u64 C, [pc]; ld.param.u64 D, [pd];\n"
    "mov.u32 t, %tid.x; mov.u32 c, %ctaid.x; mov.u32 n, %ntid.x;\n"
)


def program(body: str, *, outside: str = "", shared: str = "") -> Program:
    """A module with one entry `k(A, B, C, D)`; t, c, n hold tid.x, ctaid.x and ntid.x."""
    return parse_ptx(
        f".version 8.0\n.target sm_80\n.address_size 64\n{outside}\n"
        ".visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd)\n"
        f"{{\n{shared}\n{DECLARATIONS}{body}\n}}\n"
    )


class Run:
    """One launch of a body on up to four arrays; `arrays` holds them as they are afterwards."""

    def __init__(
        self,
        body: str,
        *arrays: Any,
        block: Any = 32,
        grid: int = 1,
        shared: str = "",
        outside: str = "",
        dynamic: int = 0,
        unwritten: int = 0,
        keep: Memory | None = None,
        **options: Any,
    ) -> None:
        self.memory = keep or Memory(1 << 22, options.get("sanitize", True))
        self.addresses = [self.memory.alloc(max(1, np.asarray(a).nbytes)) for a in arrays]
        for address, array in zip(self.addresses, arrays, strict=True):
            self.memory.write(address, np.ascontiguousarray(array).tobytes())
        if unwritten:  # a last argument that nothing was written to
            self.addresses.append(self.memory.alloc(unwritten))
        parsed = program(body, outside=outside, shared=shared)
        places: dict[str, int] = {}
        for name, variable in parsed.globals.items():
            places[name] = self.memory.alloc(variable.num_bytes)
            self.memory.write(places[name], variable.init or bytes(variable.num_bytes))
        kernel = parsed.kernels["k"]
        assert not kernel.unsupported, kernel.unsupported
        padded = [*self.addresses, 0, 0, 0, 0][:4]
        dims = block if isinstance(block, tuple) else (block, 1, 1)
        self.facts: LaunchFacts = launch(
            kernel, (grid, 1, 1), dims, dynamic, struct.pack("<4Q", *padded), self.memory, places,
            **options,
        )  # fmt: skip
        self.arrays = [
            self.memory.read(address, np.asarray(a).nbytes).view(np.asarray(a).dtype)
            for address, a in zip(self.addresses, arrays, strict=False)
        ]

    @property
    def reports(self) -> list[Report]:
        return self.facts.reports

    @property
    def kinds(self) -> list[str]:
        return [report.kind for report in self.reports]


def thread_store(value: str, to: str = "A", width: int = 4) -> str:
    """PTX that stores a register at to[global thread number]."""
    kind = {4: "b32", 8: "b64", 2: "b16"}[width]
    return (
        f"mad.lo.u32 w31, c, n, t; mul.wide.u32 x16, w31, {width}; add.u64 x16, {to}, x16;\n"
        f"st.global.{kind} [x16], {value};\n"
    )
