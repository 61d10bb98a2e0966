"""The mutants of the kill matrix: entries without one of their waits, and bad inputs."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from unittest.mock import patch

from virtual.mutant_inputs import APPEND, APPEND_INPUTS, BAD_INPUTS, KV_LENS, broadcast, decode

from pyferrum_kv import CudaContext, PtxLoader
from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.int8_kv.explain import ENTRIES
from pyferrum_kv.int8_kv.plan import DecodeShape

WAIT = re.compile(
    r"^\s*(?:@!?%\w+\s+)?(?:bar\.sync|bar\.warp\.sync|barrier\.sync|cp\.async\.wait_\w+)\b[^;]*;",
    re.MULTILINE,
)
REPRESENTATIVES = (
    "paged_decode_attention_int8",
    "paged_decode_attention_int8_d64_any_block",
    "paged_decode_attention_int8_d128",
    APPEND,
    "broadcast",
)
"""Entries that are run on hardware unless all are asked for.

The tensor-core entries are one template: every wait of theirs is a line that the any_block entry
has too, by the same instruction, and differs in tile sizes alone. One of d64, with all of the
waits, and one of d128, whose tiles are laid out otherwise, speak for the rest.
"""


@dataclass(frozen=True)
class Mutant:
    """An entry with one fault: `line` of its PTX deleted, or a bad input of the name."""

    entry: str
    fault: str
    ptx: str  # a module of this entry alone
    text: str = ""  # what was deleted
    source: str = ""  # where that came from: "decode_finish.cuh:50, from decode_finish.cuh:215"

    @property
    def key(self) -> str:
        return f"{self.entry}:{self.fault}"

    @property
    def symbol(self) -> str:
        return re.sub(r"\W", "_", f"{self.entry}__{self.fault}")

    @property
    def site(self) -> tuple[str, str]:
        """(source line, instruction) of what is gone; registers have no names here."""
        return self.source, re.sub(r"%\w+", "%", " ".join(self.text.split()))

    @property
    def fingerprint(self) -> str:
        """Of the instructions alone: lines of the source may move without changing it."""
        kept = re.sub(r"^\s*(?:\.loc|\.file|//)[^\n]*\n", "", self.ptx, flags=re.MULTILINE)
        return hashlib.sha256(kept.encode()).hexdigest()[:12]


BROADCAST = """\
.version 8.0
.target sm_80
.address_size 64

.visible .entry broadcast(
\t.param .u64 broadcast_param_0,
\t.param .u32 broadcast_param_1
)
{
\t.reg .pred %p<2>;
\t.reg .b32 %r<4>;
\t.reg .b64 %rd<4>;
\tld.param.u64 %rd1, [broadcast_param_0];
\tld.param.u32 %r1, [broadcast_param_1];
\tmov.u32 %r2, %tid.x;
\tsetp.ge.u32 %p1, %r2, %r1;
\t@%p1 bra DONE;
\tshfl.sync.idx.b32 %r3, %r2, 31, 31, -1;
\tmul.wide.u32 %rd2, %r2, 4;
\tadd.s64 %rd3, %rd1, %rd2;
\tst.global.u32 [%rd3], %r3;
DONE:
\tret;
}
"""
"""broadcast(u32 *out, u32 lanes): lane 31's index to all, with lanes past `lanes` gone."""


def entry_text(ptx: str, entry: str) -> str:
    """The header of a module, its variables, and one entry."""
    starts = [m.start() for m in re.finditer(r"^\.visible \.entry", ptx, re.MULTILINE)]
    for begin, end in zip(starts, [*starts[1:], len(ptx)], strict=True):
        if re.match(rf"\.visible \.entry {entry}\(", ptx[begin:]):
            tail = ptx.find("\n\t.file", begin)
            files = ptx[tail:] if tail >= 0 and end != len(ptx) else ""
            return ptx[: starts[0]] + ptx[begin:end] + files
    raise LookupError(entry)


def sites(text: str) -> Iterator[tuple[str, re.Match[str], str]]:
    """(fault, place, source line) of every wait in an entry."""
    files = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"[^"]*?([^"/]+)"', text, re.MULTILINE))
    for number, wait in enumerate(WAIT.finditer(text)):
        located: list[str] = []
        for line in reversed(text[: wait.start()].splitlines()):
            found = re.match(r"\s*\.loc\s+(\d+)\s+(\d+)", line)
            if found:  # lines that follow each other: what was inlined, and where it was called
                located.append(f"{files.get(found[1], '?')}:{found[2]}")
            elif located and line.strip():
                break
        yield f"wait {number}", wait, ", from ".join(located[:2]) or "?:0"


def families() -> Iterator[tuple[str, str, DecodeShape]]:
    """(entry, its PTX, a shape that it serves) of every decode family, in float16, for sm_80."""
    bundle = PtxBundle.default()
    for family in ENTRIES:
        name = family.entry("float16")
        for head_dim in (32, 64, 80, 96, 128, 192, 256):
            for num_q_heads in (4, 32):
                shape = DecodeShape(len(KV_LENS), num_q_heads, 2, head_dim, 16, max(KV_LENS))
                served = not family.refuses(shape) and name in bundle.entries
                variants = bundle.variants(name) if served else ()
                old = [v for v in variants if v.target == "sm_80"]
                if old:
                    yield name, bundle.ptx(old[0].module, "sm_80").decode(), shape
                    break
            else:
                continue
            break


def mutants() -> Iterator[tuple[Mutant, DecodeShape]]:
    """Every mutant of every family, the unharmed kernel first."""
    for entry, ptx, shape in families():
        text = entry_text(ptx, entry)
        yield Mutant(entry, "none", text), shape
        for fault, wait, source in sites(text):
            harmed = text[: wait.start()] + "\n" + text[wait.end() :]
            yield Mutant(entry, fault, harmed, wait[0].strip(), source), shape
        for fault in BAD_INPUTS:
            yield Mutant(entry, fault, text), shape
    bundle = PtxBundle.default()
    text = entry_text(bundle.ptx(APPEND, "sm_80").decode(), APPEND)
    for fault in APPEND_INPUTS:
        yield Mutant(APPEND, fault, text), DecodeShape(1, 2, 2, 64, 16, 1)
    for fault in ("none", "exited lanes"):
        yield Mutant("broadcast", fault, BROADCAST), DecodeShape(1, 1, 1, 8, 1, 1)


def stand_ins() -> dict[str, str]:
    """Mutant -> the mutant of a representative with the same fault; itself where it is one.

    The same fault is the same bad input, or the same instruction of the same line, in the same one
    of the copies that the compiler made of the line.
    """
    copies: Counter[tuple[str, ...]] = Counter()
    known: dict[tuple[str, ...], str] = {}
    faults: dict[str, tuple[str, ...]] = {}
    everyone = [mutant for mutant, _ in mutants()]
    for mutant in everyone:
        copies[(mutant.entry, *mutant.site)] += 1
        copy = str(copies[(mutant.entry, *mutant.site)])
        faults[mutant.key] = (*mutant.site, copy) if mutant.text else (mutant.fault,)
        if mutant.entry in REPRESENTATIVES:
            known.setdefault(faults[mutant.key], mutant.key)
    return {m.key: m.key if m.entry in REPRESENTATIVES else known[faults[m.key]] for m in everyone}


def run(context: CudaContext, mutant: Mutant, shape: DecodeShape) -> bytes:
    """Launch the mutant on what its fault asks for; the bytes of the output."""
    entry, loader = mutant.entry, PtxLoader.of(context)
    renamed = mutant.ptx.replace(f".entry {entry}(", f".entry {mutant.symbol}(").replace(
        f"{entry}_param_", f"{mutant.symbol}_param_"
    )
    if entry == "broadcast":
        function = context.load_module(renamed).function(mutant.symbol)
        return broadcast(context.new_stream(), function, 32 if mutant.fault == "none" else 20)
    signature = replace(loader.bundle.signature(entry), entry=mutant.symbol)
    module = context.load_module(renamed, signatures={mutant.symbol: signature})
    with patch.dict(loader._functions, {entry: module.function(mutant.symbol)}):
        fed = APPEND_INPUTS if entry == APPEND else BAD_INPUTS
        return fed.get(mutant.fault, decode)(context.new_stream(), entry, shape)
