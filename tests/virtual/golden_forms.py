"""The opcode forms that have goldens: register operations, and how near they must come."""

from __future__ import annotations

from itertools import product

INT = ("s16", "u16", "s32", "u32", "s64", "u64")
INT32 = ("s32", "u32", "s64", "u64")
BITS = ("b16", "b32", "b64")


def _each(pattern: str, *choices: tuple[str, ...]) -> list[str]:
    return [pattern.format(*c) for c in product(*choices)]


INTEGER = [
    *_each("{}.{}", ("add", "sub", "mul.lo", "div", "rem", "min", "max"), INT),
    *_each("mul.hi.{}", INT),
    *_each("mul.wide.{}", ("s16", "u16", "s32", "u32")),
    *_each("mad.lo.{}", INT),
    *_each("mad.hi.{}", ("s32", "u32", "s64", "u64")),
    *_each("mad.wide.{}", ("s16", "u16", "s32", "u32")),
    *("add.sat.s32", "sub.sat.s32", "mad.hi.sat.s32"),
    *_each("mul24.{}.{}", ("lo", "hi"), ("s32", "u32")),
    *_each("mad24.lo.{}", ("s32", "u32")),
    *_each("sad.{}", INT),
    *_each("{}.{}", ("abs", "neg"), ("s16", "s32", "s64")),
    *_each("{}.{}", ("and", "or", "xor", "not"), (*BITS, "pred")),
    *_each("cnot.{}", BITS),
    *_each("shl.{}", BITS),
    *_each("shr.{}", (*BITS, *INT)),
    *_each("{}.{}", ("popc", "clz", "brev"), ("b32", "b64")),
    *_each("bfind.{}", INT32),
    *_each("bfind.shiftamt.{}", INT32),
    *_each("bfe.{}", INT32),
    *_each("bfi.{}", ("b32", "b64")),
    *_each("szext.{}.{}", ("clamp", "wrap"), ("s32", "u32")),
    *_each("bmsk.{}.b32", ("clamp", "wrap")),
    *_each("dp4a.{}.{}", ("s32", "u32"), ("s32", "u32")),
    *_each("dp2a.{}.{}.{}", ("lo", "hi"), ("s32", "u32"), ("s32", "u32")),
    "lop3.b32",
    *_each("shf.{}.{}.b32", ("l", "r"), ("clamp", "wrap")),
    "prmt.b32",
    *_each("prmt.b32.{}", ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")),
]
FLOAT = [
    *_each("{}.f32", ("add", "sub", "mul")),
    *_each("{}.{}.f32", ("add", "sub", "mul", "fma"), ("rn", "rz", "rm", "rp")),
    *_each("{}.rn.ftz.f32", ("add", "sub", "mul", "fma")),
    *_each("{}.sat.f32", ("add", "mul")),
    *("fma.rn.sat.f32", "fma.rn.ftz.sat.f32"),
    *_each("{}.f64", ("add", "sub", "mul", "fma.rn", "div.rn", "rcp.rn", "sqrt.rn")),
    *("div.rn.f32", "div.rn.ftz.f32", "rcp.rn.f32", "rcp.rn.ftz.f32"),
    *("sqrt.rn.f32", "sqrt.rn.ftz.f32"),
    *_each("{}.{}", ("abs", "neg"), ("f32", "ftz.f32", "f64", "f16", "f16x2", "bf16", "bf16x2")),
    *_each("{}.{}", ("min", "max"), ("f32", "ftz.f32", "NaN.f32", "f64", "f16", "f16x2")),
    *_each("{}.{}", ("min", "max"), ("NaN.f16", "NaN.f16x2", "bf16", "bf16x2", "NaN.bf16x2")),
    *_each("copysign.{}", ("f32", "f64")),
    *_each("testp.{}.f32", ("finite", "infinite", "number", "notanumber", "normal", "subnormal")),
    *_each("{}.{}", ("add", "sub", "mul"), ("f16", "f16x2", "ftz.f16x2", "sat.f16x2")),
    *_each("fma.rn.{}", ("f16", "f16x2", "ftz.f16", "relu.f16x2", "bf16", "bf16x2", "relu.bf16")),
]
APPROXIMATE = {  # ulp, against hardware: the manual's bound, ours being the rounded true value
    "ex2.approx.f32": 2,
    "ex2.approx.ftz.f32": 2,
    "rcp.approx.f32": 1,
    "rcp.approx.ftz.f32": 1,
    "sqrt.approx.f32": 3,
    "sqrt.approx.ftz.f32": 3,
    "rsqrt.approx.f32": 3,
    "rsqrt.approx.ftz.f32": 3,
    "div.approx.f32": 2,
    "div.approx.ftz.f32": 2,
    "div.full.f32": 2,
    "tanh.approx.f32": 8192,  # relative 2^-11
    "ex2.approx.f16": 2,
    "ex2.approx.f16x2": 2,
    "tanh.approx.f16": 4,
    "tanh.approx.f16x2": 4,
}
BOUNDED = {  # absolute bounds, the manual's in the interval that the inputs keep to
    "lg2.approx.f32": 2.0**-20,
    "lg2.approx.ftz.f32": 2.0**-20,
    "sin.approx.f32": 2.0**-20,
    "cos.approx.f32": 2.0**-20,
}
_TO_INT = ("rni", "rzi", "rmi", "rpi")
CONVERT = [
    *[f"cvt.{d}.{s}" for d, s in product(("u8", "s8", *INT), ("u8", "s8", *INT)) if d != s],
    *_each("cvt.sat.{}.{}", ("u8", "s8", "u16", "s16", "u32"), ("s32", "s64")),
    *_each("cvt.{}.{}.f32", _TO_INT, ("s32", "u32")),
    *_each("cvt.rni.{}.f32", ("u8", "s8", "s16", "u16", "s64", "u64")),
    *_each("cvt.rzi.{}.{}", ("s32", "u32", "s64", "u64"), ("f64", "f16")),
    *("cvt.rni.ftz.s32.f32", "cvt.rzi.ftz.u32.f32", "cvt.rni.f32.f32", "cvt.rpi.f64.f64"),
    *_each("cvt.{}.f32.{}", ("rn", "rz", "rm", "rp"), ("s32", "u32", "s64", "u64")),
    *_each("cvt.rn.{}.{}", ("f16", "f64"), ("s32", "u32", "s64", "u64", "s16", "u16", "s8", "u8")),
    *_each("cvt.rn.f32.{}", ("s8", "u8", "s16", "u16")),
    *_each("cvt.{}.f16.f32", ("rn", "rz", "rm", "rp")),
    *_each("cvt.{}.f32.f64", ("rn", "rz", "rm", "rp")),
    *("cvt.rn.f16.f64", "cvt.f64.f32", "cvt.f64.f16", "cvt.f32.f16", "cvt.ftz.f64.f32"),
    *("cvt.rn.ftz.f32.f64", "cvt.sat.f32.f32", "cvt.ftz.sat.f32.f32", "cvt.rn.sat.f16.f32"),
    *("cvt.rn.relu.f16.f32", "cvt.rn.bf16.f32", "cvt.rz.bf16.f32", "cvt.rn.relu.bf16.f32"),
    *_each("cvt.{}.{}.f32", ("rn", "rz", "rn.relu"), ("f16x2", "bf16x2")),
    "cvt.rna.tf32.f32",
]
_FLOAT_TESTS = ("eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu")
COMPARE = [
    *_each("setp.{}.{}", ("eq", "ne", "lt", "le", "gt", "ge"), ("s16", "s32", "u32", "s64", "u64")),
    *_each("setp.{}.u32", ("lo", "ls", "hi", "hs")),
    *_each("setp.{}.b32", ("eq", "ne")),
    *_each("setp.{}.f32", (*_FLOAT_TESTS, "num", "nan")),
    *_each("setp.{}.ftz.f32", ("eq", "lt", "geu")),
    *_each("setp.{}.{}", ("lt", "neu", "num"), ("f64", "f16")),
    *_each("setp.lt.{}.s32", ("and", "or", "xor")),
    *_each("set.{}.{}.{}", ("lt", "ge"), ("u32", "f32"), ("s32", "f32")),
    *_each("selp.{}", (*BITS, "f32", "f64")),
    *_each("slct.{}.s32", ("b32", "f32", "u64")),
    *("slct.b32.f32", "slct.ftz.f32.f32"),
    *_each("isspacep.{}", ("global", "shared", "local")),
]
SM_90 = [
    *_each("{}.{}", ("add", "sub", "mul"), ("bf16", "bf16x2")),
    *("cvt.f32.bf16", "cvt.rn.f16.f32"),
]
EXACT = [*INTEGER, *FLOAT, *CONVERT, *COMPARE]
