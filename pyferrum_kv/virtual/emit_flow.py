"""Branches, barriers, exits, and what only passes time."""

from __future__ import annotations

from pyferrum_kv.virtual.codegen import Emitter
from pyferrum_kv.virtual.form import Form, Modifiers, opcode
from pyferrum_kv.virtual.program import Instruction


def _nothing(e: Emitter, instruction: Instruction) -> None:
    """The executor acts on the end of the segment; no statement is needed."""


@opcode("bra")
def _bra(m: Modifiers) -> Form:
    m.maybe("uni")
    return Form((), ("label",), _nothing, "branch")


@opcode("brx")
def _brx(m: Modifiers) -> Form:
    m.next("idx")
    m.maybe("uni")
    return Form((), ("u32", "label"), _nothing, "branch")


@opcode("ret", "exit")
def _exit(m: Modifiers) -> Form:
    m.maybe("uni")
    return Form((), (), _nothing, "exit")


@opcode("trap", "brkpt")
def _trap(m: Modifiers) -> Form:
    return Form((), (), lambda e, i: e.line(f"X.trap(A, {e.site})"), "effect")


@opcode("nanosleep")
def _nanosleep(m: Modifiers) -> Form:
    m.type("u32")
    return Form((), ("u32",), _nothing)


@opcode("griddepcontrol")
def _griddepcontrol(m: Modifiers) -> Form:
    m.next("launch_dependents", "wait")
    return Form((), (), _nothing)


@opcode("pmevent")
def _pmevent(m: Modifiers) -> Form:
    m.maybe("mask")
    return Form((), ("imm",), _nothing)


@opcode("bar", "barrier")
def _barrier(m: Modifiers) -> Form:
    if m.maybe("warp"):
        m.next("sync")
        return Form((), ("u32",), "X.warp_barrier(A, {0}, {site})", "warp")
    m.maybe("cta")
    action = m.next("sync", "arrive", "red")
    m.maybe("aligned")
    if action == "sync":
        return Form((), ("u32", "u32?"), _nothing, "barrier")
    if action == "arrive":
        return Form((), ("u32", "u32"), _nothing, "barrier")
    if m.maybe("popc"):
        m.maybe("aligned")
        m.type("u32")
        return Form(("u32",), ("u32", "any", "any?"), _nothing, "barrier")
    m.next("and", "or")
    m.maybe("aligned")
    m.type("pred")
    return Form(("pred",), ("u32", "any", "any?"), _nothing, "barrier")
