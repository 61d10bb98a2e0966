"""What a terminal shows: colour only where it is seen, aligned columns, bars, sizes in words."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

Mark = Literal["ok", "note", "bad", "fact"]
"""`ok` holds, `note` wants a look, `bad` stops something, `fact` judges nothing."""

_MARKS = {"ok": ("ok", "good"), "note": ("note", "warn"), "bad": ("FAIL", "bad"), "fact": ("", "")}
_CODES = {"bold": "1", "dim": "2", "good": "32", "warn": "33", "bad": "1;31"}
_EIGHTHS = " ▏▎▍▌▋▊▉"
_MARK_WIDTH = max(len(word) for word, _ in _MARKS.values())


@dataclass(frozen=True)
class Terminal:
    """Where a command writes, and what that place can show."""

    out: TextIO
    colour: bool = False
    blocks: bool = True  # whether bars are drawn with block characters

    @classmethod
    def of(cls, out: TextIO | None = None) -> Terminal:
        """Return a terminal on `out`, standard output if None; plain in a pipe or with NO_COLOR."""
        out = sys.stdout if out is None else out
        seen = out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        try:
            _EIGHTHS.encode(getattr(out, "encoding", None) or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls(out, seen, blocks=False)
        return cls(out, seen)

    def paint(self, style: str, text: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def line(self, text: str = "") -> None:
        print(text.rstrip(), file=self.out)

    def heading(self, title: str, note: str = "") -> None:
        """Write an empty line, then a bold title with a dim note behind it."""
        self.line()
        self.line(self.paint("bold", title) + (f"  {self.paint('dim', note)}" if note else ""))

    def mark(self, mark: Mark) -> str:
        word, style = _MARKS[mark]
        return self.paint(style, f"{word:<{_MARK_WIDTH}}")

    def checks(self, rows: Sequence[tuple[Mark, str, str]]) -> None:
        """Write (mark, what, finding) rows, findings in one column; a finding may have lines."""
        width = max((len(what) for _, what, _ in rows), default=0)
        for mark, what, finding in rows:
            first, *more = finding.split("\n")
            self.line(f"  {self.mark(mark)}  {what:<{width}}  {first}")
            for text in more:
                self.line(f"{'':<{2 + _MARK_WIDTH + 2 + width + 2}}{text}")

    def table(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        left: Collection[int] = (0,),
        marks: Sequence[Mark] = (),
    ) -> None:
        """Write rows under a dim head, each behind its mark; the columns in `left` lean left."""
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

        def aligned(row: Sequence[str]) -> str:
            cells = (
                f"{cell:<{width}}" if i in left else f"{cell:>{width}}"
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            return "  ".join(cells).rstrip()

        gutter = f"{'':<{_MARK_WIDTH}}  " if marks else ""
        self.line(f"  {gutter}{self.paint('dim', aligned(head))}")
        for i, row in enumerate(rows):
            self.line(f"  {self.mark(marks[i]) + '  ' if marks else ''}{aligned(row)}")

    def bar(self, value: float, full: float, width: int = 40) -> str:
        """Return a bar of `width` columns times value / full, to an eighth of a column."""
        if not self.blocks:
            return "#" * round(width * value / full)
        whole, eighth = divmod(round(8 * width * value / full), 8)
        return "█" * whole + _EIGHTHS[eighth].strip()


def bytes_text(num_bytes: float) -> str:
    """Return bytes in the largest unit that keeps a whole part: 260 B, 4.0 KiB, 139.8 GiB."""
    size, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def dotted(version: tuple[int, int]) -> str:
    """Return a version as it is written: (12, 0) is 12.0."""
    return f"{version[0]}.{version[1]}"
