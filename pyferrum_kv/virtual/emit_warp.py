"""Warp collectives: shuffles, votes, matches, reductions and matrix products."""

from __future__ import annotations

from pyferrum_kv.virtual.codegen import Emitter
from pyferrum_kv.virtual.form import Form, Modifiers, NotEmulated, opcode
from pyferrum_kv.virtual.program import Instruction, Pair, Sink, Vector


def _define_pair(e: Emitter, target: object, t: str, both: str) -> None:
    """Store (value, predicate) to d|p or to d alone."""
    pair = target if isinstance(target, Pair) else Pair(target, Sink())  # type: ignore[arg-type]
    if not isinstance(pair.first, Sink):
        e.define(pair.first, t, f"{both}[0]")
    if not isinstance(pair.second, Sink):
        e.define(pair.second, "pred", f"{both}[1]")


@opcode("shfl")
def _shuffle(m: Modifiers) -> Form:
    m.next("sync")
    mode = m.next("up", "down", "bfly", "idx")
    m.type("b32")

    def emit(e: Emitter, instruction: Instruction) -> None:
        target, *sources = instruction.operands
        value, lane, clamp, mask = (e.use(s, "u32") for s in sources)
        call = f"X.shfl(A, {mode!r}, {value}, {lane}, {clamp}, {mask}, {e.site})"
        _define_pair(e, target, "u32", e.temp(call))

    return Form(("pair:u32",), ("u32", "u32", "u32", "u32"), emit, "warp")


@opcode("vote")
def _vote(m: Modifiers) -> Form:
    m.next("sync")
    mode = m.next("all", "any", "uni", "ballot")
    t = "u32" if m.type("b32" if mode == "ballot" else "pred") == "b32" else "pred"
    return Form((t,), ("pred", "u32"), f"X.vote(A, {mode!r}, {{0}}, {{1}}, {{site}})", "warp")


@opcode("match")
def _match(m: Modifiers) -> Form:
    mode = m.next("any", "all")
    m.next("sync")
    t = m.type("b32", "b64").replace("b", "u")

    def emit(e: Emitter, instruction: Instruction) -> None:
        target, value, mask = instruction.operands
        arguments = f"{mode!r}, {e.use(value, t)}, {e.use(mask, 'u32')}, {e.site}"
        _define_pair(e, target, "u32", e.temp(f"X.match(A, {arguments})"))

    return Form(("pair:u32" if mode == "all" else "u32",), (t, "u32"), emit, "warp")


@opcode("activemask")
def _activemask(m: Modifiers) -> Form:
    m.type("b32")
    return Form(("u32",), (), "X.activemask(A)", "effect")


@opcode("redux")
def _redux(m: Modifiers) -> Form:
    m.next("sync")
    action = m.next("add", "min", "max", "and", "or", "xor")
    allowed = ("b32",) if action in ("and", "or", "xor") else ("u32", "s32")
    t = m.type(*allowed).replace("b", "u")
    return Form((t,), (t, "u32"), f"X.redux(A, {action!r}, {{0}}, {{1}}, {{site}})", "warp")


@opcode("elect")
def _elect(m: Modifiers) -> Form:
    m.next("sync")

    def emit(e: Emitter, instruction: Instruction) -> None:
        target, mask = instruction.operands
        _define_pair(e, target, "u32", e.temp(f"X.elect(A, {e.use(mask, 'u32')}, {e.site})"))

    return Form(("pair:u32",), ("u32",), emit, "warp")


# -------------------------------------------------------- matrix products

# (shape, A type, B type, accumulator) -> registers of A, B and C
_MMA = {
    ("m16n8k16", "f16", "f16", "f32"): (4, 2, 4),
    ("m16n8k16", "bf16", "bf16", "f32"): (4, 2, 4),
    ("m16n8k8", "f16", "f16", "f32"): (2, 1, 4),
    ("m16n8k8", "bf16", "bf16", "f32"): (2, 1, 4),
    ("m16n8k16", "f16", "f16", "f16"): (4, 2, 2),
    **{("m16n8k32", a, b, "s32"): (4, 2, 4) for a in ("s8", "u8") for b in ("s8", "u8")},
    **{("m16n8k16", a, b, "s32"): (2, 1, 4) for a in ("s8", "u8") for b in ("s8", "u8")},
}


@opcode("mma")
def _mma(m: Modifiers) -> Form:
    m.next("sync")
    m.next("aligned")
    shape = m.next("m16n8k8", "m16n8k16", "m16n8k32")
    m.next("row")
    m.next("col")
    satfinite = bool(m.maybe("satfinite"))
    result = m.next("f32", "f16", "s32")
    a_type, b_type = m.next("f16", "bf16", "s8", "u8"), m.next("f16", "bf16", "s8", "u8")
    if m.next(result) != result or (satfinite and result != "s32"):
        raise NotEmulated(f"{m.opcode} is not emulated")
    counts = _MMA.get((shape, a_type, b_type, result))
    if counts is None:
        raise NotEmulated(f"{m.opcode} is not emulated")
    unit = {"f32": "f32", "s32": "s32", "f16": "u32"}[result]
    k = int(shape.rpartition("k")[2])

    def emit(e: Emitter, instruction: Instruction) -> None:
        operands = [o for o in instruction.operands if isinstance(o, Vector)]
        d, *abc = operands
        types = ("u32", "u32", unit)
        texts = (
            "(" + ", ".join(e.use(item, t) for item in vector.items) + ",)"
            for vector, t in zip(abc, types, strict=False)
        )
        kinds = f"{k}, {a_type!r}, {b_type!r}, {result!r}, {satfinite}"
        product = e.temp(f"X.mma(A, {', '.join(texts)}, {kinds}, {e.site})")
        for i, item in enumerate(d.items):
            e.define(item, unit, f"{product}[{i}]")

    a, b, c = counts
    c_spec = f"v{c}:{unit}"
    return Form((c_spec,), (f"v{a}:u32", f"v{b}:u32", c_spec), emit, "warp")


@opcode("movmatrix")
def _movmatrix(m: Modifiers) -> Form:
    for word in ("sync", "aligned", "m8n8", "trans"):
        m.next(word)
    m.type("b16")
    return Form(("u32",), ("u32",), "X.movmatrix(A, {0}, {site})", "warp")
