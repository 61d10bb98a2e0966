"""Golden cases: a small PTX kernel, its inputs, and the shape of its output.

Every kernel has the parameters (a, b, c, out), reads its operands at thread * 8 of these and writes
its results at thread * 8 * results of `out`. The inputs come from the case's name, so a file of
goldens holds outputs only.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

from pyferrum_kv.virtual.forms import find_form

LANES = 128
HEADER = ".version 8.0\n.target {target}\n.address_size 64\n"
REGISTER = {
    **dict.fromkeys(("u8", "s8", "b16", "u16", "s16", "f16", "bf16"), "b16"),
    **dict.fromkeys(("u32", "s32", "b32", "f16x2", "bf16x2", "tf32"), "b32"),
    **dict.fromkeys(("u64", "s64", "b64"), "b64"),
    **{"f32": "f32", "f64": "f64", "pred": "b32"},
}
WIDTH = {"b16": 2, "b32": 4, "b64": 8, "f32": 4, "f64": 8}


@dataclass(frozen=True)
class Case:
    """One golden kernel.

    compare: element type of the output; limit: ulp, or an absolute bound when `absolute`
    """

    name: str
    body: str
    compare: str
    results: int = 1
    limit: float = 0.0
    absolute: bool = False
    target: str = "sm_80"
    inputs: tuple[str, str, str] = ("u32", "u32", "u32")
    shared_bytes: int = 0

    @property
    def text(self) -> str:
        """PTX of the kernel, with the header of a module of its own."""
        name = "k_" + hashlib.sha256(self.name.encode()).hexdigest()[:12]
        shared = f".shared .align 16 .b8 s[{self.shared_bytes}];\n" if self.shared_bytes else ""
        return (
            HEADER.format(target=self.target)
            + f".visible .entry {name}(.param .u64 pa, .param .u64 pb, .param .u64 pc, "
            ".param .u64 po)\n{\n"
            ".reg .pred p, q, r; .reg .b16 h<9>; .reg .b32 t, w<33>; .reg .b64 x<9>, at;\n"
            ".reg .f32 f<9>; .reg .f64 g<9>; .reg .b64 A, B, C, O;\n"
            + shared
            + "ld.param.u64 A, [pa]; ld.param.u64 B, [pb]; ld.param.u64 C, [pc];\n"
            "ld.param.u64 O, [po]; mov.u32 t, %tid.x; mul.wide.u32 at, t, 8;\n"
            "add.u64 A, A, at; add.u64 B, B, at; add.u64 C, C, at;\n"
            f"mul.lo.u64 at, at, {self.results}; add.u64 O, O, at;\n"
            f"{self.body}\nret;\n}}\n"
        )

    @property
    def entry(self) -> str:
        return "k_" + hashlib.sha256(self.name.encode()).hexdigest()[:12]

    def arrays(self) -> list[np.ndarray]:
        """Three input buffers, uint64 [LANES] each."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        return [operand(kind, rng) for kind in self.inputs]

    @property
    def fingerprint(self) -> str:
        """Changes when the kernel or its inputs do."""
        whole = hashlib.sha256(self.text.encode())
        for array in self.arrays():
            whole.update(array.tobytes())
        return whole.hexdigest()[:16]


# ------------------------------------------------------------------ inputs

_F32 = np.array(
    [0.0, 1.0, 0.5, 1.5, 2.5, 3.0, 0.1, 127.0, 127.5, 128.5, 255.5, 65504.0, 65519.9, 65520.0, 1e-3,
     5.96e-8, 6.1e-5, 2.0**-126, 2.0**-149, 1.17549421e-38, 3.4028235e38, 2.0**31, 2.0**32, 2.0**63,
     2.0**64, 16777217.0, 8388607.5, 1e10, 1e-30, np.inf, np.nan, 3.1415927, 0.33333334],
    np.float32,
)  # fmt: skip
_INTS = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 32767, 32768, 65535,
         0x7FFFFF, 0x800000, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF, 0x01234567,
         0x89ABCDEF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
         0xFFFFFFFF00000000]  # fmt: skip


def operand(kind: str, rng: np.random.Generator) -> np.ndarray:
    """uint64 [LANES]: edge values and random ones of a type, in the low bytes."""
    raw = rng.integers(0, 1 << 64, LANES, np.uint64)
    edge = rng.random(LANES) < 0.6
    if kind in ("f32", "f64", "f16", "bf16", "f16x2", "bf16x2", "positive", "unit", "angle"):
        return _floats(kind, rng, raw, edge)
    if kind == "small":  # shift counts, field positions
        return raw % np.uint64(70)
    if kind == "lanes":
        return raw % np.uint64(32)
    if kind == "pred":
        return raw & np.uint64(1)
    edges = np.array(_INTS, np.uint64)[rng.integers(0, len(_INTS), LANES)]
    return np.where(edge, edges, raw)


def _floats(kind: str, rng: np.random.Generator, raw: np.ndarray, edge: np.ndarray) -> np.ndarray:
    sign = np.where(rng.random(LANES) < 0.4, np.float32(-1), np.float32(1))
    edges = _F32[rng.integers(0, _F32.size, LANES)] * sign
    size = np.exp2(rng.uniform(-20, 20, LANES)).astype(np.float32) * sign
    values = np.where(edge, edges, size).astype(np.float32)
    if kind == "positive":  # where a logarithm's bound is absolute
        values = rng.uniform(0.5, 2.0, LANES).astype(np.float32)
    if kind == "angle":
        values = rng.uniform(-np.pi, np.pi, LANES).astype(np.float32)
    if kind == "unit":
        values = rng.uniform(-4.0, 4.0, LANES).astype(np.float32)
    with np.errstate(all="ignore"):
        if kind == "f64":
            wide = values.astype(np.float64) * rng.choice([1.0, 1.0 + 2**-40, 2.0**200], LANES)
            return wide.view(np.uint64)
        bits = values.view(np.uint32).astype(np.uint64)
        if kind in ("f16", "f16x2"):
            halves = values.astype(np.float16).view(np.uint16).astype(np.uint64)
        else:
            halves = bits >> np.uint64(16)
    if kind in ("f16", "bf16"):
        return halves
    if kind in ("f16x2", "bf16x2"):
        return halves | (np.roll(halves, 1) << np.uint64(16))
    return bits


# ----------------------------------------------------------- register forms


def register_case(
    opcode: str, limit: float = 0.0, absolute: bool = False, target: str = "sm_80"
) -> Case:
    """A case of a form that takes registers and gives registers."""
    form = find_form(opcode)
    lines: list[str] = []
    names: list[str] = []
    kinds: list[str] = []
    suffix = opcode.rsplit(".", 1)[-1]
    for i, spec in enumerate(form.sources):
        spec = spec.removeprefix("mov:").rstrip("+?")
        if spec == "imm":
            names.append("0xE8")
            continue
        if i == 3:  # bfi's count: the thread's number
            names.append("t")
            continue
        kinds.append(_input_kind(opcode, spec, i, suffix))
        names.append(_load(lines, i, spec))
    result = form.results[0].removeprefix("mov:").rstrip("+")
    pair = result == "pair:pred" and suffix != "f16"
    result = "pred" if result == "pair:pred" else result
    target_name = "p|q" if pair else "p" if result == "pred" else _register(result, 8)
    lines.append(f"{opcode} {', '.join([target_name, *names])};")
    lines += _store(result, pair)
    inputs = (*kinds, *["u32"] * 3)[:3]
    compare = "pred" if result == "pred" else _compared(opcode, result)
    return Case(
        opcode, "\n".join(lines), compare, 2 if pair else 1, limit, absolute, target, inputs
    )  # fmt: skip


def _register(spec: str, number: int) -> str:
    return {"b16": "h", "b32": "w", "b64": "x", "f32": "f", "f64": "g"}[REGISTER[spec]] + str(
        number
    )


def _load(lines: list[str], index: int, spec: str) -> str:
    name = _register(spec, index)
    lines.append(f"ld.global.{REGISTER[spec]} {name}, [{'ABC'[index]}];")
    if spec != "pred":
        return name
    lines.append(f"setp.ne.u32 {'pqr'[index]}, {name}, 0;")
    return "pqr"[index]


def _store(result: str, pair: bool) -> list[str]:
    if result == "pred":
        found = ["selp.u32 w8, 1, 0, p;", "st.global.b32 [O], w8;"]
        return [*found, "selp.u32 w8, 1, 0, q;", "st.global.b32 [O+8], w8;"] if pair else found
    return [f"st.global.{REGISTER[result]} [O], {_register(result, 8)};"]


def _input_kind(opcode: str, spec: str, index: int, suffix: str) -> str:
    base = opcode.split(".")[0]
    if base in ("lg2",):
        return "positive"
    if base in ("sin", "cos"):
        return "angle"
    if base == "tanh":
        return "f32" if suffix == "f32" else suffix
    shifts = base in ("shl", "shr", "bfe", "bfi", "szext", "bmsk", "shf")
    if shifts and index >= (2 if base in ("bfi", "shf") else 0 if base == "bmsk" else 1):
        return "small"
    if spec in ("u16", "u32") and suffix in ("f16", "bf16", "f16x2", "bf16x2"):
        return suffix  # neg and abs act on the bits
    return spec


def _compared(opcode: str, result: str) -> str:
    suffix = opcode.rsplit(".", 1)[-1]
    if opcode.split(".")[0] in ("neg", "abs") and suffix in ("f16", "bf16", "f16x2", "bf16x2"):
        return suffix
    return result
