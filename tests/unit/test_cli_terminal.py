"""What the command line writes: plain in a pipe, aligned, and readable without block characters."""

from __future__ import annotations

import io

import pytest

from pyferrum_kv.cli.terminal import Terminal, bytes_text, dotted


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class AsciiOut(io.StringIO):
    encoding = "ascii"  # type: ignore[assignment]


def test_a_pipe_gets_no_colour() -> None:
    assert Terminal.of(io.StringIO()).paint("good", "ok") == "ok"


def test_a_terminal_gets_colour_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Terminal.of(Tty()).paint("good", "ok") == "\x1b[32mok\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "")
    assert Terminal.of(Tty()).paint("good", "ok") == "ok"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert Terminal.of(Tty()).paint("good", "ok") == "ok"


def test_findings_line_up_and_their_further_lines_too() -> None:
    out = io.StringIO()
    Terminal(out).checks([("ok", "short", "one\ntwo"), ("bad", "much longer", "three")])
    first, second, third = out.getvalue().splitlines()
    assert first.index("one") == second.index("two") == third.index("three")
    assert first.startswith("  ok ")
    assert third.startswith("  FAIL ")


def test_table_aligns_text_left_and_numbers_right() -> None:
    out = io.StringIO()
    Terminal(out).table(("name", "us"), [("a", "1.5"), ("longer", "120.0")], marks=("ok", "note"))
    head, first, second = out.getvalue().splitlines()
    assert head.index("name") == first.index("a") == second.index("longer")
    assert len(head) == len(first) == len(second)
    assert second.startswith("  note")


@pytest.mark.parametrize(
    ("value", "drawn"),
    [(0, ""), (1, "██████████"), (0.5, "█████"), (0.5125, "█████▏"), (0.001, "")],
)
def test_bar_is_as_long_as_its_value(value: float, drawn: str) -> None:
    assert Terminal(io.StringIO()).bar(value, 1, width=10) == drawn


def test_bar_is_ascii_where_blocks_cannot_be_written() -> None:
    assert Terminal.of(AsciiOut()).bar(1, 2, width=10) == "#####"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (260 * 2**20, "260.0 MiB"),
        (2**41, "2.0 TiB"),
    ],
)
def test_bytes_in_words(num_bytes: int, text: str) -> None:
    assert bytes_text(num_bytes) == text


def test_version_with_a_dot() -> None:
    assert dotted((12, 0)) == "12.0"
