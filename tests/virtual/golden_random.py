"""Golden cases of random straight-line code."""

from __future__ import annotations

import numpy as np
from virtual.golden_text import Case

_INT_OPS = [
    *["add.u32", "sub.u32", "mul.lo.u32", "mul.hi.s32", "min.s32", "max.u32", "and.b32", "or.b32"],
    *["xor.b32", "shl.b32", "shr.s32", "shr.u32", "div.u32", "rem.s32", "mad.lo.s32", "bfe.s32"],
    *["bfi.b32", "prmt.b32", "popc.b32", "clz.b32", "brev.b32", "sad.u32", "shf.l.wrap.b32"],
    *["dp4a.s32.u32", "abs.s32", "neg.s32", "not.b32"],
]
_FLOAT_OPS = [
    *["add.rn.f32", "sub.rn.f32", "mul.rn.f32", "fma.rn.f32", "fma.rz.f32", "add.rm.f32"],
    *["min.f32", "max.f32", "div.rn.f32", "sqrt.rn.f32", "abs.f32", "neg.f32", "rcp.rn.f32"],
    *["fma.rn.ftz.f32", "mul.rn.ftz.f32", "add.rp.f32"],
]
_SOURCES = {"popc": 1, "clz": 1, "brev": 1, "abs": 1, "neg": 1, "not": 1, "sqrt": 1, "rcp": 1,
            "mad": 3, "bfe": 3, "bfi": 4, "prmt": 3, "sad": 3, "shf": 3, "dp4a": 3,
            "fma": 3}  # fmt: skip


def random_cases(count: int = 24, length: int = 40) -> list[Case]:
    """Straight-line code over integer and float registers; NaN never becomes an integer."""
    cases: list[Case] = []
    for seed in range(count):
        rng = np.random.default_rng(1000 + seed)
        lines = ["ld.global.b32 w0, [A]; ld.global.b32 w1, [B]; ld.global.b32 w2, [C];"]
        lines += ["ld.global.f32 f0, [A+4]; ld.global.f32 f1, [B+4]; ld.global.f32 f2, [C+4];"]
        lines += [f"add.u32 w{i}, w{i - 1}, w{i - 2};" for i in range(3, 8)]
        lines += [f"fma.rn.f32 f{i}, f{i - 1}, f{i - 2}, f{i - 3};" for i in range(3, 8)]
        for _ in range(length):
            lines.append(_random_line(rng))
        lines.append("xor.b32 w8, w0, w1; xor.b32 w9, w2, w3; xor.b32 w8, w8, w4;")
        lines.append("xor.b32 w9, w9, w5; st.global.v2.b32 [O], {w8, w9};")
        cases.append(Case(f"random integers {seed}", "\n".join(lines), "u32"))
        floats = [*lines[:-2], "st.global.f32 [O], f3;", "st.global.f32 [O+8], f6;"]
        cases.append(Case(f"random floats {seed}", "\n".join(floats), "f32", 2))
    return cases


def _random_line(rng: np.random.Generator) -> str:
    def pick(letter: str) -> str:
        return f"{letter}{rng.integers(0, 8)}"

    kind = rng.random()
    if kind < 0.06:
        return f"cvt.rzi.s32.f32 {pick('w')}, {pick('f')};"
    if kind < 0.12:
        return f"cvt.rn.f32.s32 {pick('f')}, {pick('w')};"
    if kind < 0.2:
        test = rng.choice(["lt.s32", "ge.u32", "ne.s32"])
        line = f"setp.{test} p, {pick('w')}, {pick('w')};"
        chosen = f"selp.b32 {pick('w')}, {pick('w')}, {pick('w')}, p;"
        return line + (chosen if rng.random() < 0.5 else f"@p add.u32 {pick('w')}, {pick('w')}, 1;")
    integer = kind < 0.6
    op = str(rng.choice(_INT_OPS if integer else _FLOAT_OPS))
    letter = "w" if integer else "f"
    sources = [pick(letter) for _ in range(_SOURCES.get(op.split(".")[0], 2))]
    if op.startswith(("shl", "shr")):
        return f"and.b32 w10, {sources[1]}, 31; {op} {pick('w')}, {sources[0]}, w10;"
    if op.startswith(("div.u32", "rem.s32")):
        return f"or.b32 w10, {sources[1]}, 1; {op} {pick('w')}, {sources[0]}, w10;"
    return f"{op} {pick(letter)}, {', '.join(sources)};"
