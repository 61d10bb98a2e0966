"""The mutants of the kill matrix: entries without one of their waits, and bad inputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from helpers.kv_cache import HostCache, make_cache  # noqa: E402

from pyferrum_kv import CudaContext, CudaStream, LaunchConfig, PtxLoader  # noqa: E402
from pyferrum_kv.bundle import PtxBundle  # noqa: E402
from pyferrum_kv.int8_kv import (  # noqa: E402
    Int8KvPools,
    launch_decode,
    paged_decode_attention_int8,
)
from pyferrum_kv.int8_kv.explain import ENTRIES, explain  # noqa: E402
from pyferrum_kv.int8_kv.plan import DecodeShape  # noqa: E402

WAIT = re.compile(
    r"^\s*(?:@!?%\w+\s+)?(?:bar\.sync|bar\.warp\.sync|barrier\.sync|cp\.async\.wait_\w+)\b[^;]*;",
    re.MULTILINE,
)
KV_LENS = [300, 37, 90]  # no multiples of a tile; several turns of each loop, several pieces a CTA


@dataclass(frozen=True)
class Mutant:
    """An entry with one fault: `line` of its PTX deleted, or a bad input of the name."""

    entry: str
    fault: str
    ptx: str  # a module of this entry alone
    text: str = ""  # what was deleted
    source: str = ""  # where that came from: "paged_decode.cuh:120"

    @property
    def key(self) -> str:
        return f"{self.entry}:{self.fault}"

    @property
    def symbol(self) -> str:
        return re.sub(r"\W", "_", f"{self.entry}__{self.fault}")


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
        located = re.findall(r"^\s*\.loc\s+(\d+)\s+(\d+)", text[: wait.start()], re.MULTILINE)
        file, line = located[-1] if located else ("", "0")
        yield f"wait {number}", wait, f"{files.get(file, '?')}:{line}"


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
    for fault in ("none", "exited lanes"):
        yield Mutant("broadcast", fault, BROADCAST), DecodeShape(1, 1, 1, 8, 1, 1)


def run(context: CudaContext, mutant: Mutant, shape: DecodeShape) -> bytes:
    """Decode with the mutant; the bytes of the output."""
    entry, loader = mutant.entry, PtxLoader.of(context)
    renamed = mutant.ptx.replace(f".entry {entry}(", f".entry {mutant.symbol}(").replace(
        f"{entry}_param_", f"{mutant.symbol}_param_"
    )
    if entry == "broadcast":
        return broadcast(context.new_stream(), renamed, mutant)
    signature = replace(loader.bundle.signature(entry), entry=mutant.symbol)
    module = context.load_module(renamed, signatures={mutant.symbol: signature})
    with patch.dict(loader._functions, {entry: module.function(mutant.symbol)}):
        return BAD_INPUTS.get(mutant.fault, decode)(context.new_stream(), entry, shape)


def broadcast(stream: CudaStream, ptx: str, mutant: Mutant) -> bytes:
    """All 32 lanes take part, or 20."""
    function = stream.context.load_module(ptx).function(mutant.symbol)
    out, lanes = stream.alloc_zeros(32, np.uint32), 32 if mutant.fault == "none" else 20
    stream.launch_builder(function).arg(out).arg(lanes).launch(LaunchConfig(1, 32))
    return stream.clone_dtoh(out).tobytes()


def cache_of(shape: DecodeShape) -> HostCache:
    rng = np.random.default_rng(7)
    return make_cache(
        rng,
        KV_LENS,
        block_size=shape.block_size,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
    )


def decode(
    stream: CudaStream, entry: str, shape: DecodeShape, pools: Int8KvPools | None = None
) -> bytes:
    """Sequences cut in pieces, so that the merge is part of it."""
    cache = cache_of(shape)
    rng = np.random.default_rng(8)
    size = (shape.batch_size, shape.num_q_heads, shape.head_dim)
    q = stream.clone_htod(rng.standard_normal(size).astype(np.float16).ravel())
    table, kv_lens = (stream.clone_htod(a.ravel()) for a in (cache.block_table, cache.kv_lens))
    out = stream.alloc_zeros(len(q), np.float16)
    paged_decode_attention_int8(
        stream,
        q,
        pools or cache.to_device(stream),
        table,
        kv_lens,
        out,
        num_q_heads=shape.num_q_heads,
        max_kv_len=shape.max_kv_len,
        entry=entry,
        num_splits=2 if entry == "paged_decode_attention_int8" else 0,  # others cut by CTAs
    )
    return stream.clone_dtoh(out).tobytes()


def short_shared_memory(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """Half of the dynamic shared memory that the kernel was planned with."""

    def halved(*arguments: Any, **options: Any) -> Any:
        planned = explain(*arguments, **options)
        return replace(planned, shared_mem_bytes=planned.shared_mem_bytes // 2)

    with patch.object(launch_decode, "explain", halved):
        return decode(stream, entry, shape)


def bad_table_entry(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """The first block of the first sequence lies far outside the pool."""
    cache = cache_of(shape)

    def spoiled(_: DecodeShape) -> HostCache:
        cache.block_table[0, 0] = 100_000
        return cache

    with patch(f"{__name__}.cache_of", spoiled):
        return decode(stream, entry, shape)


def unwritten_block(stream: CudaStream, entry: str, shape: DecodeShape) -> bytes:
    """Pools that were allocated and never written."""
    layout = cache_of(shape).layout
    num_scales = layout.num_blocks * layout.block_size * layout.num_kv_heads
    codes = [stream.alloc(num_scales * layout.head_dim, np.int8) for _ in "kv"]
    scales = [stream.alloc(num_scales, np.float16) for _ in "kv"]
    return decode(stream, entry, shape, Int8KvPools(layout, *codes, *scales))


BAD_INPUTS: dict[str, Callable[[CudaStream, str, DecodeShape], bytes]] = {
    "short shared memory": short_shared_memory,
    "bad table entry": bad_table_entry,
    "unwritten block": unwritten_block,
}
