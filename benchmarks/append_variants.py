"""The append with other constants, against copies of as many bytes, on one GPU in one run.

    python -m benchmarks.append_variants --build [--before REV]     # where NVRTC is
    python -m benchmarks.append_variants [--json FILE]              # where the GPU is

--build compiles the source once for each row of VARIANTS, its four constants replaced, and with
--before the source as it stood in a revision, into build/append_variants. The second command times
what lies there beside the bundle's own entry and the copies, all in turn, by bench_append's method.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bench_append import (
    BLOCK_SIZE,
    HEAD_DIM,
    KERNEL,
    MAX_CALLS,
    MEMCPY,
    NUM_KV_HEADS,
    NUM_TOKENS,
    PASS_TOKENS,
    ROUNDS,
    Append,
    bytes_moved,
    copy_bytes,
)
from benchmarks.ceilings import copy_kernel, launch_copy
from benchmarks.machine import in_words, json_parser, report_rows
from benchmarks.replay import Repeated, replay
from pyferrum_kv import CudaContext, CudaFunction, LaunchConfig
from pyferrum_kv.nvrtc import CompileOptions, compile_ptx

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "append_variants"
SOURCE = "kernels/int8_kv_cache_append.cu"
ENTRY = "int8_kv_cache_append"

# name: THREADS, CHUNKS (of 8 a lane), ROWS (a lane), MIN_CTAS (an SM)
VARIANTS = {
    "t128_c2_r1_m12": (128, 2, 1, 12),
    "t128_c2_r1_m1": (128, 2, 1, 1),
    "t256_c2_r1_m6": (256, 2, 1, 6),
    "t256_c1_r1_m8": (256, 1, 1, 8),
    "t128_c1_r1_m1": (128, 1, 1, 1),
    "t128_c1_r2_m1": (128, 1, 2, 1),
    "t128_c2_r2_m1": (128, 2, 2, 1),
}


def main() -> int:
    parser = json_parser(__doc__)
    parser.add_argument("--build", action="store_true", help="compile the variants; needs no GPU")
    parser.add_argument("--before", metavar="REV", help="with --build: a revision's source as well")
    args = parser.parse_args()
    if args.build:
        build(args.before)
        return 0
    return report_rows(measure, print_table, rounds=ROUNDS, file=args.json)


def build(before: str | None) -> None:
    """Write NAME.ptx, and its rows a CTA into index.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    here = (ROOT / SOURCE).read_text()
    sources = {name: _with_constants(here, *values) for name, values in VARIANTS.items()}
    if before:
        shown = ["git", "-C", str(ROOT), "show", f"{before}:{SOURCE}"]
        sources["before"] = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    headers = {path.name: path.read_text() for path in (ROOT / "kernels").glob("*.cuh")}
    options = CompileOptions(arch="compute_90", lineinfo=False)
    index = {}
    for name, source in sources.items():
        ptx = compile_ptx(source, f"/pyferrum_kv/{SOURCE}", options, headers=headers).ptx
        (FOLDER / f"{name}.ptx").write_bytes(ptx)
        index[name] = {key: _constant(source, key) for key in ("THREADS", "CHUNKS", "ROWS")}
    (FOLDER / "index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"{FOLDER}: {', '.join(index)}")


def _with_constants(source: str, threads: int, chunks: int, rows: int, min_ctas: int) -> str:
    wanted = {"THREADS": threads, "CHUNKS": chunks, "ROWS": rows, "MIN_CTAS": min_ctas}
    for key, value in wanted.items():
        source, replaced = re.subn(rf"(?m)^#define {key} \d+", f"#define {key} {value}", source)
        if replaced != 1:
            raise SystemExit(f"{SOURCE} has {replaced} lines '#define {key} N'; wanted one")
    return source


def _constant(source: str, key: str) -> int:
    found = re.search(rf"(?m)^#define {key} (\d+)", source)
    return int(found[1]) if found else 1


class Variant(Append):
    """The same calls through an entry of one's own."""

    def use(self, function: CudaFunction, constants: dict[str, int]) -> Variant:
        self.function, self.constants = function, constants
        return self

    def __call__(self, index: int, num_tokens: int) -> None:
        row = NUM_KV_HEADS * HEAD_DIM
        first, last = index * num_tokens, (index + 1) * num_tokens
        lanes = 1 << (-(-HEAD_DIM // 8 // self.constants["CHUNKS"]) - 1).bit_length()
        threads = self.constants["THREADS"]
        rows_a_cta = threads // lanes * self.constants["ROWS"]
        grid = -(-num_tokens * NUM_KV_HEADS // rows_a_cta)
        layout = self.pools.layout
        builder = self.stream.launch_builder(self.function)
        for argument in (
            *(self.k[first * row : last * row], self.v[first * row : last * row]),
            *self.pools.slices,
            self.slot_mapping[first:last],
            layout.num_slots,
            *(row, HEAD_DIM, row, HEAD_DIM),
            *(layout.kv_block_stride, layout.scale_block_stride),
            *(num_tokens, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE),
        ):
            builder.arg(argument)
        builder.launch(LaunchConfig((grid, 1, 1), (threads, 1, 1)))


def measure(ctx: CudaContext) -> list[dict[str, Any]]:
    index = json.loads((FOLDER / "index.json").read_text())
    stream = ctx.new_stream()
    shipped, variant = Append(stream), Variant(stream)
    functions = {
        name: ctx.load_module((FOLDER / f"{name}.ptx").read_bytes(), name=name).function(ENTRY)
        for name in index
    }
    copy = copy_kernel(ctx)
    half_of_pass = PASS_TOKENS // NUM_TOKENS[0] * copy_bytes(NUM_TOKENS[0])
    src, dst = (stream.alloc_zeros(half_of_pass, "uint8") for _ in range(2))
    rows = []
    for num_tokens in NUM_TOKENS:
        calls, half = min(PASS_TOKENS // num_tokens, MAX_CALLS), copy_bytes(num_tokens)

        def view(i: int, half: int = half) -> slice:
            return slice(i * half, (i + 1) * half)

        subjects = {
            KERNEL: Repeated.capture(
                stream, lambda i: launch_copy(stream, copy, src[view(i)], dst[view(i)]), calls
            ),
            MEMCPY: Repeated.capture(
                stream, lambda i: stream.memcpy_dtod(src[view(i)], dst[view(i)]), calls
            ),
            "bundle": Repeated.capture(stream, lambda i, n=num_tokens: shipped(i, n), calls),
        }
        for name, constants in index.items():
            variant.use(functions[name], constants)
            subjects[name] = Repeated.capture(stream, lambda i, n=num_tokens: variant(i, n), calls)
        times = replay(stream, subjects, ROUNDS)
        us = {name: statistics.median(figures) for name, figures in times.items()}
        rows.append({"num_tokens": num_tokens, "bytes_moved": bytes_moved(num_tokens), "us": us})
        for subject in subjects.values():
            subject.graph.close()
    return rows


def print_table(report: dict[str, Any]) -> None:
    """A row a subject: microseconds a call, and the share of the faster copy's rate."""
    print(in_words(report["machine"]))
    rows = report["rows"]
    print(f"{NUM_KV_HEADS} KV heads, head_dim {HEAD_DIM}; median of {report['rounds']} replays\n")
    print(f"{'us':<22}" + "".join(f"{row['num_tokens']:>16}" for row in rows))
    for name in rows[0]["us"]:
        cells = []
        for row in rows:
            copy_us = min(row["us"][KERNEL], row["us"][MEMCPY])
            cells.append(f"{row['us'][name]:>9.2f}{100 * copy_us / row['us'][name]:>6.0f}%")
        print(f"{name:<22}" + "".join(cells))


if __name__ == "__main__":
    sys.exit(main())
