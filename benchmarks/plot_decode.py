"""Pictures of what bench_decode.py measured, from its JSON alone: no GPU.

    python -m benchmarks.plot_decode FILE.json [FOLDER]

One heat map for each head_dim (part of the limit over batch size and kv_len), bars of time against
the limit for the goals and for the further shapes, and time over size. Needs matplotlib:
pip install 'pyferrum-kv[bench]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.decode_goals import LIMIT, OURS, PEERS, part_of_limit

COLOURS = {
    OURS: "#0072B2",
    "SDPA fp16": "#B0B0B0",
    "FlashInfer fp16": "#E69F00",
    "FlashInfer fp8": "#CC79A7",
    "XQA fp8": "#009E73",
}
INK, GRID = "#333333", "#DDDDDD"
BARS = {"goals": "decode_goals", "more": "decode_more", "blocks": "decode_blocks"}


class NoMatplotlib(Exception):
    """There is nothing to draw with; the text says what to install."""


def draw(data: dict[str, Any], folder: Path) -> list[Path]:
    """Draw everything that there are rows for; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    where = data["machine"]["device"]
    made = []
    heat = [row for row in data["rows"] if row["set"] == "heat"]
    for head_dim in sorted({row["shape"]["head_dim"] for row in heat}):
        rows = [row for row in heat if row["shape"]["head_dim"] == head_dim]
        made.append(_heat_map(rows, head_dim, where, folder / f"decode_heat_d{head_dim}.png"))
    for name, stem in BARS.items():
        rows = [row for row in data["rows"] if row["set"] == name]
        if rows:
            made.append(_bars(rows, where, folder / f"{stem}.png"))
    growth = [row for row in data["rows"] if row["set"] == "growth"]
    if growth:
        made.append(_growth(growth, where, folder / "decode_growth.png"))
    return made


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise NoMatplotlib(
            f"plot_decode: {error}; pip install 'pyferrum-kv[bench]', or matplotlib"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    pyplot.rcParams.update(style)
    return pyplot


def _save(pyplot: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _tokens(kv_len: int) -> str:
    return f"{kv_len // 1024}k" if kv_len >= 1024 else str(kv_len)


def _heat_map(rows: list[dict[str, Any]], head_dim: int, where: str, path: Path) -> Path:
    """Part of the limit, written into each cell above the microseconds of the decode."""
    pyplot = _pyplot()
    batches = sorted({row["shape"]["batch_size"] for row in rows})
    lens = sorted({row["shape"]["kv_lens"] for row in rows})
    grid = [[float("nan")] * len(batches) for _ in lens]
    figure, axes = pyplot.subplots(figsize=(1.5 + 0.85 * len(batches), 1.5 + 0.6 * len(lens)))
    for row in rows:
        x, y = batches.index(row["shape"]["batch_size"]), lens.index(row["shape"]["kv_lens"])
        grid[y][x] = part = part_of_limit(row)
        ink = "white" if part > 0.6 else INK
        us = row["us"][OURS]
        axes.text(x, y + 0.13, f"{part:.2f}", ha="center", va="center", color=ink, weight="bold")
        text = f"{us:.0f} us" if us >= 20 else f"{us:.1f} us"
        axes.text(x, y - 0.23, text, ha="center", va="center", color=ink, fontsize=7.5)
    shown = axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    axes.set_facecolor("#F4F4F4")
    axes.set_xticks(range(len(batches)), [str(n) for n in batches])
    axes.set_yticks(range(len(lens)), [_tokens(n) for n in lens])
    axes.tick_params(length=0)
    axes.set_xlabel("sequences")
    axes.set_ylabel("tokens of each")
    first = rows[0]["shape"]
    heads = f"{first['num_q_heads']}/{first['num_kv_heads']} heads, head_dim {head_dim}"
    axes.set_title(f"INT8 paged decode, part of the read limit: {heads}\n{where}", fontsize=11)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    return _save(pyplot, figure, path)


def _bars(rows: list[dict[str, Any]], where: str, path: Path) -> Path:
    """Time as a multiple of the limit; microseconds at the end of each bar."""
    pyplot = _pyplot()
    subjects = [name for name in (OURS, *PEERS) if any(name in row["us"] for row in rows)]
    pitch = len(subjects) + 1
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.165 * pitch * len(rows)))
    longest = 1.0
    for at, row in enumerate(rows):
        for index, name in enumerate(subjects):
            us = row["us"].get(name)
            if us is None:
                continue
            times, y = us / row["us"][LIMIT], at * pitch + index
            longest = max(longest, times)
            label = None if name in axes.get_legend_handles_labels()[1] else name
            axes.barh(y, times, height=0.85, color=COLOURS[name], label=label)
            text = f" {us:.0f}" if us >= 20 else f" {us:.1f}"
            weight = "bold" if name == OURS else "normal"
            axes.text(times, y, text, va="center", fontsize=7, weight=weight)
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    middle = (len(subjects) - 1) / 2
    labels = [f"{row['shape']['name']}\nlimit {row['us'][LIMIT]:.1f} us" for row in rows]
    axes.set_yticks([at * pitch + middle for at in range(len(rows))], labels, fontsize=8)
    axes.set_ylim(len(rows) * pitch - 0.6, -1)
    axes.set_xlim(0, longest * 1.08)
    axes.tick_params(length=0)
    axes.set_xlabel("times the limit (dashed): a plain read of the INT8 cache; bars end in us")
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=len(subjects), frameon=False, fontsize=9
    )
    axes.set_title(f"One decode step of one layer, {where}", fontsize=11, pad=28)
    return _save(pyplot, figure, path)


def _growth(rows: list[dict[str, Any]], where: str, path: Path) -> Path:
    """Time of one sequence over its length; GB/s over the number of sequences."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8))
    one = [row for row in rows if row["shape"]["name"].startswith("one_")]
    many = [row for row in rows if row["shape"]["name"].startswith("batch_")]
    for name, colour in ((OURS, COLOURS[OURS]), (LIMIT, INK)):
        style = {"color": colour, "marker": "o", "markersize": 4, "label": name}
        if name == LIMIT:
            style["linestyle"] = (0, (3, 2))
        us = [row["us"][name] for row in one]
        left.plot([row["shape"]["kv_lens"] for row in one], us, **style)
        speed = [row["shape"]["num_bytes"] / row["us"][name] / 1e3 for row in many]
        right.plot([row["shape"]["batch_size"] for row in many], speed, **style)
    left.set_xscale("log", base=2)
    left.set_yscale("log", base=2)
    left.set_xticks([r["shape"]["kv_lens"] for r in one])
    left.set_xticklabels([_tokens(r["shape"]["kv_lens"]) for r in one])
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_xlabel("tokens of one sequence")
    left.set_title("us a call", fontsize=10)
    right.set_xscale("log", base=2)
    right.set_xticks([r["shape"]["batch_size"] for r in many])
    right.set_xticklabels([str(r["shape"]["batch_size"]) for r in many])
    right.set_ylim(bottom=0)
    right.set_xlabel("sequences of 2048 tokens")
    right.set_title("GB/s", fontsize=10)
    for axes in (left, right):
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    left.legend(frameon=False)
    figure.suptitle(f"INT8 paged decode, 32/8 heads, head_dim 128, {where}", x=0.01, ha="left")
    figure.tight_layout()
    return _save(pyplot, figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw what bench_decode.py measured.")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("folder", type=Path, nargs="?", help="by default the file's")
    args = parser.parse_args()
    try:
        paths = draw(json.loads(args.file.read_text()), args.folder or args.file.parent)
    except NoMatplotlib as error:
        print(error, file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
