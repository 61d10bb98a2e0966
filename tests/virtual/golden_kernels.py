"""Golden cases that a table cannot make: memory, warps, matrices, atomics."""

from __future__ import annotations

from itertools import product

from virtual.golden_text import Case

_SAVE = "st.global.b32 [O], w8;"


def warp_cases() -> list[Case]:
    """Shuffles in every mode, votes, matches, reductions, special registers."""
    load = "ld.global.b32 w0, [A]; ld.global.b32 w1, [B]; ld.global.b32 w2, [C];\n"
    cases: list[Case] = []
    for mode, (lane, clamp) in product(
        ("up", "down", "bfly", "idx"), ((1, 0x1F), (3, 0), (16, 0x100F), (5, 0x181F), (2, 0x1C03))
    ):
        cases.append(
            Case(
                f"shfl.sync.{mode} {lane} {clamp:#x}",
                f"{load}shfl.sync.{mode}.b32 w8|p, w0, {lane}, {clamp}, 0xffffffff;\n"
                f"selp.b32 w9, 1, 0, p; st.global.v2.b32 [O], {{w8, w9}};",
                "u32",
                1,
            )
        )
        cases.append(
            Case(
                f"shfl.sync.{mode} by lane {clamp:#x}",
                f"{load}shfl.sync.{mode}.b32 w8|p, w0, w1, {clamp}, 0xffffffff;\n"
                f"selp.b32 w9, 1, 0, p; st.global.v2.b32 [O], {{w8, w9}};",
                "u32",
                1,
                inputs=("u32", "lanes", "u32"),
            )
        )
    vote = load + "and.b32 w1, w1, 1; setp.ne.u32 p, w1, 0;\n"
    for mode in ("any", "all", "uni"):
        body = f"vote.sync.{mode}.pred q, p, 0xffffffff; selp.b32 w8, 1, 0, q; {_SAVE}"
        cases.append(Case(f"vote.sync.{mode}", vote + body, "u32"))
    ballot = "vote.sync.ballot.b32 w8, p, 0xffffffff;"
    cases.append(Case("vote.sync.ballot", f"{vote}{ballot} {_SAVE}", "u32"))
    half = (
        "mov.u32 w3, %laneid; setp.lt.u32 q, w3, 16; @!q bra UPPER;\n"
        "vote.sync.ballot.b32 w8, p, 0x0000ffff; bra DONE;\n"
        "UPPER: vote.sync.ballot.b32 w8, p, 0xffff0000;\nDONE:\n"
    )
    cases.append(Case("vote in two halves", vote + half + _SAVE, "u32"))
    few = load + "and.b32 w0, w0, 3; cvt.u64.u32 x0, w0;\n"
    cases += [
        Case("match.any.b32", f"{few}match.any.sync.b32 w8, w0, 0xffffffff; {_SAVE}", "u32"),
        Case("match.any.b64", f"{few}match.any.sync.b64 w8, x0, 0xffffffff; {_SAVE}", "u32"),
        Case(
            "match.all.b32",
            f"{load}shr.u32 w3, t, 5; and.b32 w3, w3, 1; mul.lo.u32 w0, w0, w3;\n"
            "match.all.sync.b32 w8|p, w0, 0xffffffff; selp.b32 w9, 1, 0, p;\n"
            "st.global.v2.b32 [O], {w8, w9};",
            "u32",
        ),
        Case("activemask", f"mov.u32 w8, 0; setp.lt.u32 p, t, 70; @!p bra D;\n"
             f"activemask.b32 w8;\nD: {_SAVE}", "u32"),
    ]  # fmt: skip
    for action, t in [("add", "u32"), ("add", "s32"), ("min", "s32"), ("max", "s32"),
                      ("min", "u32"), ("max", "u32"), ("and", "b32"), ("or", "b32"),
                      ("xor", "b32")]:  # fmt: skip
        body = f"{load}redux.sync.{action}.{t} w8, w0, 0xffffffff; {_SAVE}"
        cases.append(Case(f"redux.{action}.{t}", body, "u32"))
    for name in ("laneid", "lanemask_eq", "lanemask_lt", "lanemask_le", "lanemask_gt",
                 "lanemask_ge", "tid.x", "tid.y", "ntid.x", "nctaid.x", "ctaid.x"):  # fmt: skip
        cases.append(Case(f"%{name}", f"mov.u32 w8, %{name}; {_SAVE}", "u32"))
    return cases


def memory_cases() -> list[Case]:
    """Loads and stores of each width, vectors, packs, shared, local and generic addresses."""
    cases: list[Case] = []
    for t in ("u8", "s8", "u16", "s16", "u32", "s32"):
        body = f"ld.global.{t} w8, [A+1];" if t in ("u8", "s8") else f"ld.global.{t} w8, [A];"
        cases.append(Case(f"ld.{t} widened", f"{body} {_SAVE}", "u32"))
        wide = f"ld.global.{t} x8, [A]; st.global.b64 [O], x8;"
        cases.append(Case(f"ld.{t} widened to 64", wide, "u64"))
    cases += [
        Case("mov pack and unpack", "ld.global.b64 x0, [A]; mov.b64 {w0, w1}, x0;\n"
             "mov.b32 {h0, h1}, w0; mov.b32 w2, {h1, h0}; mov.b64 x8, {w1, w2};\n"
             "st.global.b64 [O], x8;", "u64"),
        Case("v2 and v4", "mov.u32 w0, t; ld.global.v2.u32 {w1, w2}, [A]; and.b32 w3, t, 1;\n"
             "setp.ne.u32 p, w3, 0; @p bra D; ld.global.v4.u16 {h0, h1, h2, h3}, [B];\n"
             "cvt.u32.u16 w4, h3; xor.b32 w1, w1, w4;\nD: st.global.v2.u32 [O], {w2, w1};",
             "u64"),
        Case("shared reversed", "ld.global.b32 w0, [A]; mov.u32 w1, s; shl.b32 w2, t, 2;\n"
             "add.u32 w1, w1, w2; st.shared.b32 [w1], w0; bar.sync 0;\n"
             "mov.u32 w3, s; sub.u32 w2, 508, w2; add.u32 w3, w3, w2;\n"
             f"ld.shared.b32 w8, [w3]; {_SAVE}", "u32", shared_bytes=512),
        Case("generic shared", "ld.global.b32 w0, [A]; mov.u64 x0, s; cvta.shared.u64 x0, x0;\n"
             "mul.wide.u32 x1, t, 4; add.u64 x0, x0, x1; st.b32 [x0], w0; bar.sync 0;\n"
             f"ld.b32 w8, [x0]; isspacep.shared p, x0; @!p mov.u32 w8, 0; {_SAVE}", "u32",
             shared_bytes=512),
        Case("bar.red", "ld.global.b32 w0, [A]; and.b32 w0, w0, 1; setp.ne.u32 p, w0, 0;\n"
             "bar.red.popc.u32 w1, 0, p; bar.red.and.pred q, 0, p; bar.red.or.pred r, 0, p;\n"
             "selp.u32 w2, 256, 0, q; selp.u32 w3, 512, 0, r; add.u32 w8, w1, w2;\n"
             f"add.u32 w8, w8, w3; {_SAVE}", "u32"),
        *[Case(hint.split()[0], f"{hint}; ld.global.b32 w8, [A]; {_SAVE}", "u32", target=target)
          for hint, target in [("prefetch.global.L2 [A]", "sm_80"),
                               ("griddepcontrol.wait", "sm_90"),
                               ("griddepcontrol.launch_dependents", "sm_90")]],
    ]  # fmt: skip
    for size, given in product((4, 8, 16), ("", ", 4", ", 0", ", w0")):
        if given == ", w0":
            given_text = f"and.b32 w0, t, {size - 1};\n"
        else:
            given_text = ""
        cases.append(
            Case(
                f"cp.async {size}{given}",
                f"{given_text}mov.u32 w1, s; shl.b32 w2, t, 4; add.u32 w1, w1, w2;\n"
                "mul.wide.u32 x1, t, 8; sub.u64 x2, A, x1; shr.u32 w3, t, 1;\n"
                "mul.wide.u32 x3, w3, 16; add.u64 x2, x2, x3;\n"
                f"cp.async.ca.shared.global [w1], [x2], {size}{given};\n"
                "cp.async.commit_group; cp.async.wait_group 0;\n"
                + ("ld.shared.b32 w8, [w1]; cvt.u64.u32 x8, w8;\n" if size == 4
                   else "ld.shared.b64 x8, [w1];\n" if size == 8
                   else "ld.shared.v2.b64 {x7, x8}, [w1]; xor.b64 x8, x8, x7;\n")
                + "st.global.b64 [O], x8;",
                "u64",
                shared_bytes=2048,
            )
        )  # fmt: skip
    return cases


_ATOMICS = [
    *[("add", t) for t in ("u32", "s32", "u64")],
    *[(a, t) for a in ("min", "max") for t in ("u32", "s32", "u64", "s64")],
    *[(a, t) for a in ("and", "or", "xor") for t in ("b32", "b64")],
    *[("inc", "u32"), ("dec", "u32"), ("exch", "b32"), ("exch", "b64")],
    *[("cas", "b32"), ("cas", "b64"), ("cas", "b16")],
    *[("add", "f32"), ("add", "f64"), ("add.noftz", "f16x2"), ("add.noftz", "f16")],
]

_PLACES = [("", "global"), ("", "shared"), ("acq_rel.gpu.", "global")]  # the last of a counter


def atomic_cases() -> list[Case]:
    """Each atomic on places of its own: what it returns and what it leaves."""
    cases: list[Case] = []
    for action, t in _ATOMICS:
        size = {"16": 2, "x2": 4, "32": 4, "64": 8}[t[-2:]]
        r = {"f32": "f", "f64": "g"}.get(t, {2: "h", 4: "w", 8: "x"}[size])
        bits = t if t[0] == "f" and size in (4, 8) and t != "f16x2" else f"b{8 * size}"
        third = f", {r}2" if action == "cas" else ""
        for order, space in _PLACES[: 3 if action == "inc" else 2]:
            place = "[A]" if space == "global" else "[x5]"
            into = (
                "mov.u64 x5, s; mul.wide.u32 x6, t, 8; add.u64 x5, x5, x6;\n"
                f"st.shared.{bits} [x5], {r}0;\n"
            )
            body = (
                f"ld.global.{bits} {r}0, [A]; ld.global.{bits} {r}1, [B];"
                f"ld.global.{bits} {r}2, [C];\n{into}"
                f"atom.{order}{space}.{action}.{t} {r}3, {place}, {r}1{third};\n"
                f"ld.{space}.{bits} {r}4, {place};\n"
                f"st.global.{bits} [O], {r}3; st.global.{bits} [O+8], {r}4;"
            )
            kind = t if t[0] == "f" else "u64" if size == 8 else "u32"
            # cas: half of the lanes find what they compare with
            inputs = (kind, kind, kind) if action != "cas" else ("pred", "pred", "u32")
            cases.append(
                Case(
                    f"atom.{order}{space}.{action}.{t}",
                    body,
                    kind if t[0] == "f" else f"u{8 * size}",
                    2,
                    inputs=inputs,
                    shared_bytes=1024,
                )
            )
    same = "ld.global.b32 w0, [A]; mul.wide.u32 x0, t, 8; sub.u64 x1, O, x0;\n"
    for action, t in [("add", "u32"), ("max", "s32"), ("xor", "b32")]:  # any order gives the same
        text = (
            "mov.u64 x5, s; setp.eq.u32 p, t, 0; @p st.shared.b32 [x5], 0; bar.sync 0;\n"
            f"red.shared.{action}.{t} [x5], w0; bar.sync 0; ld.shared.b32 w8, [x5]; {_SAVE}"
        )
        cases.append(Case(f"red.{action}.{t} on one place", same + text, "u32", shared_bytes=16))
    return cases


def matrix_cases() -> list[Case]:
    """ldmatrix, movmatrix and mma."""
    cases: list[Case] = []
    fill = (
        "ld.global.v2.b32 {w0, w1}, [A]; mov.u32 w2, s; mad.lo.u32 w3, t, 16, w2;\n"
        "st.shared.v4.b32 [w3], {w0, w1, w0, w1}; bar.sync 0;\n"
    )
    for count, trans in product((1, 2, 4), ("", ".trans")):
        names = ", ".join(f"w{8 + i}" for i in range(count))
        mix = "".join(f"xor.b32 w8, w8, w{8 + i}; shl.b32 w8, w8, 1;\n" for i in range(1, count))
        body = f"{fill}ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{names}}}, [w3];\n"
        cases.append(
            Case(f"ldmatrix.x{count}{trans}", body + mix + _SAVE, "u32", shared_bytes=2048)
        )
    body = f"ld.global.b32 w0, [A]; movmatrix.sync.aligned.m8n8.trans.b16 w8, w0; {_SAVE}"
    cases.append(Case("movmatrix", body, "u32"))
    for k, t, c in [("16", "f16", "f32"), ("16", "bf16", "f32"), ("8", "f16", "f32"),
                    ("8", "bf16", "f32"), ("16", "f16", "f16"), ("32", "s8", "s32"),
                    ("32", "u8", "s32"), ("16", "s8", "s32")]:  # fmt: skip
        cases.append(_mma(k, t, c))
    return cases


def _mma(k: str, t: str, c: str) -> Case:
    counts = {("16", "f16"): (4, 2), ("16", "bf16"): (4, 2), ("8", "f16"): (2, 1),
              ("8", "bf16"): (2, 1), ("32", "s8"): (4, 2), ("32", "u8"): (4, 2),
              ("16", "s8"): (2, 1)}  # fmt: skip
    a, b = counts[k, t]
    load = "ld.global.v2.b32 {w0, w1}, [A]; ld.global.v2.b32 {w2, w3}, [B];\n"
    load += "ld.global.v2.b32 {w4, w5}, [C];\n"
    if t in ("f16", "bf16"):  # pairs of small floats from bytes: no NaN, no overflow
        one, mask = ("0x3C003C00", "0x83FF83FF") if t == "f16" else ("0x3F803F80", "0x807F807F")
        load += "".join(
            f"and.b32 w{i}, w{i}, {mask}; or.b32 w{i}, w{i}, {one};\n" for i in range(6)
        )
    left = ", ".join(f"w{i}" for i in range(a))
    right = ", ".join(f"w{4 + i}" for i in range(b))
    name = f"mma.sync.aligned.m16n8k{k}.row.col.{c}.{t}.{t}.{c}"
    if c == "f16":
        acc, out, move = "w0, w5", "w8, w9", "st.global.v2.b32 [O], {w8, w9};"
        return Case(name, f"{load}{name} {{{out}}}, {{{left}}}, {{{right}}}, {{{acc}}};\n{move}",
                    "f16", 1, 2.0**-5, True)  # fmt: skip
    r, kind = ("f", "f32") if c == "f32" else ("w", "b32")
    first = 0 if r == "f" else 16
    if c == "f32":
        load += "".join(f"cvt.rn.f32.s32 f{i}, w{i};\n mul.f32 f{i}, f{i}, 0f2F800000;\n"
                        for i in range(4))  # fmt: skip
    else:
        load += "".join(f"shr.s32 w{first + i}, w{i}, 8;\n" for i in range(4))
    acc = ", ".join(f"{r}{first + i}" for i in range(4))
    out = ", ".join(f"{r}{first + 4 + i}" for i in range(4))
    save = f"st.global.v4.{kind} [O], {{{out}}};"
    limit = 2.0**-18 * (int(k) * 4 + 1) if c == "f32" else 0.0
    return Case(name, f"{load}{name} {{{out}}}, {{{left}}}, {{{right}}}, {{{acc}}};\n{save}",
                c if c == "f32" else "u32", 2, limit, c == "f32")  # fmt: skip
