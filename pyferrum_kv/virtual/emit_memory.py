"""Loads, stores, atomics, asynchronous copies, matrix loads and fences.

The access itself is a method of the executor (X) for the lanes of the activation (A); the last
argument is the index of the instruction, by which findings and facts are attributed.
"""

from __future__ import annotations

from pyferrum_kv.virtual.codegen import Emitter
from pyferrum_kv.virtual.emit_integer import BITS, INTEGERS, bits
from pyferrum_kv.virtual.form import Form, Modifiers, NotEmulated, opcode
from pyferrum_kv.virtual.program import TYPE_BYTES, Instruction, Operand, Sink, Vector

ELEMENTS = ("b8", "u8", "s8", *BITS, *INTEGERS, "f32", "f64")
SCOPES = ("cta", "cluster", "gpu", "sys")
CACHE_HINTS = (
    *("ca", "cg", "cs", "lu", "cv", "wb", "wt"),
    *(f"L1::{p}" for p in ("evict_normal", "evict_unchanged", "evict_first", "evict_last")),
    *("L1::no_allocate", "L2::64B", "L2::128B", "L2::256B"),
)
_SHARED = {"shared::cta": "shared"}


def _space(m: Modifiers, *allowed: str) -> str:
    found = m.maybe(*allowed, "shared::cta") if "shared" in allowed else m.maybe(*allowed)
    return _SHARED.get(found, found) or "generic"


def _order(m: Modifiers, *allowed: str) -> str:
    """The memory order asked for: weak, volatile, relaxed, acquire, release; scope cta is weak."""
    order = m.maybe("weak", "volatile", *allowed)
    if order in ("relaxed", "acquire", "release", "acq_rel"):
        scope = m.next(*SCOPES)
        return order if scope != "cta" else "relaxed"
    return order or "weak"


def _element(t: str) -> str:
    return t if t[0] in "sf" else bits(t)


# --------------------------------------------------------- load and store


@opcode("ld", "ldu")
def _load(m: Modifiers) -> Form:
    t = _element(m.type(*ELEMENTS))
    order = _order(m, "relaxed", "acquire")
    space = _space(m, "global", "const", "shared", "local", "param")
    m.skip(*CACHE_HINTS)
    non_coherent = bool(m.maybe("nc")) or m.base == "ldu"
    if non_coherent and space != "global":
        raise NotEmulated(f"{m.opcode} is not emulated")
    m.skip(*CACHE_HINTS)
    count = int((m.maybe("v2", "v4") or "v1")[1])
    size = TYPE_BYTES[t] * count
    if size > 16:
        raise NotEmulated("accesses of more than 16 bytes are not emulated")

    def emit(e: Emitter, instruction: Instruction) -> None:
        target, source = instruction.operands
        if space == "param" and (constant := e.parameter(source, t)) and count == 1:
            e.define_wide(target, t, constant)
            return
        address = e.address(source, space)
        flags = f", {order!r}, {non_coherent}" if space in ("global", "generic") else ""
        loaded = e.temp(f"X.ld_{space}(A, {address}, {size}, {e.site}{flags})")
        if isinstance(target, Vector):
            parts = e.temp(f"N.columns({loaded}, {e.numpy(t)}, {count})")
            for i, item in enumerate(target.items):
                if not isinstance(item, Sink):
                    e.define_wide(item, t, f"{parts}[{i}]")
        else:
            e.define_wide(target, t, f"{loaded}.view({e.numpy(t)})")

    result = f"{t}+" if count == 1 else f"v{count}:{t}+"
    return Form((result,), (space,), emit, "effect")


@opcode("st")
def _store(m: Modifiers) -> Form:
    t = _element(m.type(*ELEMENTS))
    order = _order(m, "relaxed", "release")
    space = _space(m, "global", "shared", "local")
    m.skip(*CACHE_HINTS)
    count = int((m.maybe("v2", "v4") or "v1")[1])
    size = TYPE_BYTES[t] * count
    if size > 16:
        raise NotEmulated("accesses of more than 16 bytes are not emulated")

    def emit(e: Emitter, instruction: Instruction) -> None:
        target, source = instruction.operands
        address = e.address(target, space)
        if isinstance(source, Vector):
            parts = ", ".join(e.use(item, bits(t), wide=True) for item in source.items)
            value = f"N.rows(({parts},), A.n)"
        else:
            value = e.use(source, bits(t), wide=True)
        flags = f", {order!r}" if space in ("global", "generic") else ""
        e.line(f"X.st_{space}(A, {address}, {value}, {size}, {e.site}{flags})")

    source = f"{t}+" if count == 1 else f"v{count}:{t}+"
    return Form((), (space, source), emit, "effect")


@opcode("prefetch", "prefetchu")
def _prefetch(m: Modifiers) -> Form:
    space = m.maybe("global", "local") or "generic"
    m.next("L1", "L2")
    return Form((), (space,), lambda e, i: None, "effect")


# ---------------------------------------------------------------- atomics

_ATOMICS = {
    "add": ("u32", "s32", "u64", "f32", "f64", "f16", "f16x2", "bf16", "bf16x2"),
    "min": ("u32", "s32", "u64", "s64"),
    "max": ("u32", "s32", "u64", "s64"),
    "inc": ("u32",),
    "dec": ("u32",),
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
    "exch": ("b32", "b64"),
    "cas": ("b16", "b32", "b64"),
}


@opcode("atom", "red")
def _atomic(m: Modifiers) -> Form:
    t = m.type()
    order = m.maybe("relaxed", "acquire", "release", "acq_rel") or "relaxed"
    scope = m.maybe(*SCOPES)
    order = "relaxed" if scope == "cta" else order
    space = _space(m, "global", "shared")
    action = m.next(*_ATOMICS)
    m.maybe("noftz")
    if t not in _ATOMICS[action] or (m.base == "red" and action in ("exch", "cas")):
        raise NotEmulated(f"{m.opcode} is not emulated")
    has_result = m.base == "atom"
    value_type = _element(t) if t not in ("f16", "f16x2", "bf16", "bf16x2") else bits(t)
    count = 2 if action == "cas" else 1

    def emit(e: Emitter, instruction: Instruction) -> None:
        operands = list(instruction.operands)
        target: Operand = operands.pop(0) if has_result else Sink()
        address = e.address(operands.pop(0), space)
        values = [e.use(operand, value_type) for operand in operands]
        values += ["None"] * (2 - len(values))
        wanted = not isinstance(target, Sink)
        arguments = f"{address}, {', '.join(values)}, {action!r}, {t!r}, {order!r}, {wanted}"
        call = f"X.atom_{space}(A, {arguments}, {e.site})"
        if wanted:
            e.define(target, value_type, call)
        else:
            e.line(call)

    results = (value_type,) if has_result else ()
    return Form(results, (space, *[value_type] * count), emit, "effect")


@opcode("membar", "fence")
def _fence(m: Modifiers) -> Form:
    if m.base == "membar":
        scope = m.next("cta", "gl", "sys")
    else:
        m.maybe("sc", "acq_rel")
        scope = m.next(*SCOPES)
    is_wide = scope != "cta"
    return Form((), (), lambda e, i: e.line(f"X.fence(A, {is_wide})"), "effect")


# ------------------------------------------------------ asynchronous copy


@opcode("cp")
def _copy_async(m: Modifiers) -> Form:
    m.next("async")
    what = m.next("ca", "cg", "commit_group", "wait_group", "wait_all")
    if what == "commit_group":
        return Form((), (), lambda e, i: e.line("X.copy_commit(A)"), "effect")
    if what == "wait_all":
        return Form((), (), lambda e, i: e.line(f"X.copy_wait(A, -1, {e.site})"), "effect")
    if what == "wait_group":

        def wait(e: Emitter, instruction: Instruction) -> None:
            e.line(f"X.copy_wait(A, {e.integer(instruction.operands[0])}, {e.site})")

        return Form((), ("imm",), wait, "effect")
    m.next("shared", "shared::cta")
    m.next("global")
    m.skip(*CACHE_HINTS)

    def copy(e: Emitter, instruction: Instruction) -> None:
        dst, src, size, *given = instruction.operands
        source_bytes = e.use(given[0], "u32") if given else "None"
        places = f"{e.address(dst, 'shared')}, {e.address(src, 'global')}"
        e.line(f"X.copy_async(A, {places}, {e.integer(size)}, {source_bytes}, {e.site})")

    return Form((), ("shared", "global", "imm", "u32?"), copy, "effect")


# ----------------------------------------------------------- matrix loads


@opcode("ldmatrix", "stmatrix")
def _matrix(m: Modifiers) -> Form:
    m.next("sync")
    m.next("aligned")
    m.next("m8n8")
    count = int(m.next("x1", "x2", "x4")[1])
    trans = bool(m.maybe("trans"))
    space = _space(m, "shared")
    m.type("b16")
    if space == "generic":
        raise NotEmulated(f"{m.base} of a generic address is not emulated")

    def load(e: Emitter, instruction: Instruction) -> None:
        target, source = instruction.operands
        assert isinstance(target, Vector)
        call = f"X.ldmatrix(A, {e.address(source, 'shared')}, {count}, {trans}, {e.site})"
        loaded = e.temp(call)
        for i, item in enumerate(target.items):
            e.define(item, "u32", f"{loaded}[{i}]")

    def store(e: Emitter, instruction: Instruction) -> None:
        target, source = instruction.operands
        assert isinstance(source, Vector)
        values = ", ".join(e.use(item, "u32") for item in source.items)
        address = e.address(target, "shared")
        e.line(f"X.stmatrix(A, {address}, ({values},), {trans}, {e.site})")

    if m.base == "ldmatrix":
        return Form((f"v{count}:u32",), ("shared",), load, "warp")
    return Form((), ("shared", f"v{count}:u32"), store, "warp")
