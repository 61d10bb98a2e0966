"""pyferrum-kv demo: the main job on random data, held against the reference."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pyferrum_kv.cli.demonstration import (
    GPU,
    MAX_ABS_ERROR,
    MAX_RELATIVE_L2,
    VIRTUAL,
    Appended,
    Decoded,
    Demonstration,
    Shape,
)
from pyferrum_kv.cli.terminal import Mark, Terminal, bytes_text, dotted
from pyferrum_kv.cli.timing import CALLS, REPLAYS, Timed, measure
from pyferrum_kv.driver import CudaContext
from pyferrum_kv.errors import DriverNotFound

if TYPE_CHECKING:
    from argparse import _SubParsersAction

FALL_BACK = "Virtual device: no NVIDIA driver here, so NumPy runs the PTX on this CPU."


@dataclass(frozen=True)
class Report:
    """Everything the demo says."""

    driver: str
    driver_absent: str  # why the virtual device stands in; empty if it was asked for or is not used
    device: str
    compute_capability: tuple[int, int]
    shape: Shape
    appended: Appended
    decoded: list[Decoded]
    fp16_bytes: int
    int8_bytes: int
    timed: list[Timed]

    @property
    def holds(self) -> bool:
        return self.appended.holds and all(decoded.holds for decoded in self.decoded)


def add_to(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="append and attend on random data; compare with the reference",
        description="Append random K and V to an INT8 paged cache, attend over it at several "
        "lengths, and compare with the NumPy reference: codes and scales bit for bit, attention "
        "against float64. On a GPU, time both. Without an NVIDIA driver the shipped PTX runs on "
        "the virtual device, and no times are printed. Exits 0 only if everything holds.",
    )
    parser.add_argument(
        "--driver",
        choices=("cuda", "virtual"),
        help="run there or not at all; the default is PYFERRUM_KV_DRIVER, else cuda with the "
        "virtual device in its place where there is no driver",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random data; default 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    chosen = args.driver or os.environ.get("PYFERRUM_KV_DRIVER")
    ctx, absent = open_device(chosen or "cuda", fall_back=not chosen)
    terminal = Terminal.of()
    if absent and not args.json:
        terminal.line(FALL_BACK)
    with ctx:
        report = demonstrate(ctx, absent, args.seed)
    show(report, terminal, as_json=args.json)
    return 0 if report.holds else 1


def open_device(driver: Any, *, fall_back: bool) -> tuple[CudaContext, str]:
    """Open device 0; with `fall_back`, the virtual one where there is no driver, and the reason."""
    try:
        return CudaContext.new(0, driver=driver), ""
    except DriverNotFound as absent:
        if not fall_back:
            raise
        return CudaContext.new(0, driver="virtual"), str(absent)


def show(report: Report, terminal: Terminal, *, as_json: bool) -> None:
    """Write the report for a reader, or for a program."""
    if as_json:
        terminal.line(json.dumps(_document(report), indent=2))
    else:
        _print(terminal, report)


def demonstrate(ctx: CudaContext, absent: str, seed: int) -> Report:
    """Append, attend, compare; on a GPU measure as well."""
    is_virtual = ctx.api.name == "virtual"
    shape = VIRTUAL if is_virtual else GPU
    demonstration = Demonstration(ctx, shape, seed)
    demonstration.append()
    appended = demonstration.check_append()
    demonstration.decode()
    decoded = demonstration.check_decode()
    layout = shape.layout
    return Report(
        driver=ctx.api.name,
        driver_absent=absent,
        device=ctx.name,
        compute_capability=ctx.compute_capability,
        shape=shape,
        appended=appended,
        decoded=decoded,
        fp16_bytes=layout.fp16_bytes,
        int8_bytes=layout.total_bytes,
        timed=[] if is_virtual else measure(demonstration),
    )


def _print(terminal: Terminal, report: Report) -> None:
    shape, appended = report.shape, report.appended
    device = f"{report.device}, compute capability {dotted(report.compute_capability)}"
    terminal.line(f"{terminal.paint('bold', 'pyferrum-kv demo')}  {device}")
    terminal.line(
        f"{shape.num_q_heads} query heads, {shape.num_kv_heads} KV heads, head_dim "
        f"{shape.head_dim}, blocks of {shape.block_size} tokens, float16, blocks in random order"
    )

    terminal.heading("Append", "int8_kv_cache_append, against the reference quantiser")
    rows = 2 * appended.num_tokens * shape.num_kv_heads
    found = f"{rows * shape.head_dim:,} codes and {rows:,} scales are bit-equal"
    if not appended.holds:
        found = f"{appended.different_codes:,} codes, {appended.different_scales:,} scales differ"
    mark: Mark = "ok" if appended.holds else "bad"
    terminal.checks([(mark, f"{appended.num_tokens:,} tokens", found)])

    terminal.heading("Decode", "paged_decode_attention_int8, one batch, against float64 attention")
    terminal.table(
        ("kv_len", "max abs error", "relative L2"),
        [
            *(
                (f"{d.kv_len:,}", f"{d.max_abs_error:.1e}", f"{d.relative_l2:.1e}")
                for d in report.decoded
            ),
            ("at most", f"{MAX_ABS_ERROR:.1e}", f"{MAX_RELATIVE_L2:.1e}"),
        ],
        left=(),
        marks=[*(("ok" if d.holds else "bad") for d in report.decoded), "fact"],
    )

    terminal.heading("Memory", f"K and V of {shape.layout.num_slots:,} tokens, scales included")
    saved = 1 - report.int8_bytes / report.fp16_bytes
    for name, size, note in (
        ("fp16", report.fp16_bytes, ""),
        ("int8", report.int8_bytes, f"   {saved:.1%} saved"),
    ):
        drawn = terminal.bar(size, report.fp16_bytes)
        terminal.line(f"  {name}  {drawn:<40}  {bytes_text(size):>9}{note}")

    if report.timed:
        terminal.heading(
            "Time", f"on the device, in a CUDA graph of {CALLS} calls, median of {REPLAYS} replays"
        )
        terminal.table(
            ("", "tokens", "us", "GB/s"),
            [
                (t.operation, f"{t.num_tokens:,}", f"{t.us:.1f}", f"{t.gb_per_s:,.0f}")
                for t in report.timed
            ],
        )
    terminal.line()
    if report.holds:
        terminal.line(terminal.paint("good", "Everything holds."))
    else:
        terminal.line(terminal.paint("bad", "Something does not hold: see FAIL above."))


def _document(report: Report) -> dict[str, Any]:
    return {
        "holds": report.holds,
        **asdict(report),
        "timed": [{**asdict(timed), "gb_per_s": timed.gb_per_s} for timed in report.timed],
    }
