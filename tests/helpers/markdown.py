"""Read the fenced blocks of a Markdown file, and run them as a reader would.

```python     runs; the blocks of a file share one namespace, top to bottom
              a block with >>> prompts runs as a doctest
```console    `$ pyferrum-kv ...` runs, and the lines below it are what it prints
              `...` stands for anything, in both; other `$` commands are left alone

A block below `<!-- not run: reason -->` is not run; Python is compiled all the same.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyferrum_kv.cli import main

_FENCE = re.compile(
    r"^(?P<not_run><!-- not run: .+ -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    path: Path
    line: int  # of the fence
    language: str
    text: str
    runs: bool

    @property
    def where(self) -> str:
        return f"{self.path.name}:{self.line}"


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(Block(path, line, match["language"], match["text"], not match["not_run"]))
    return found


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    """Run a Python block in a namespace; what a doctest prints must be what the block shows."""
    if ">>> " not in block.text:
        # line numbers of a traceback are those of the Markdown file
        code = compile("\n" * block.line + block.text, str(block.path), "exec")
        if block.runs:
            exec(code, namespace)
        return
    test = doctest.DocTestParser().get_doctest(
        block.text, namespace, block.where, str(block.path), block.line
    )
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=_FLAGS)
    if block.runs:
        runner.run(test, out=report.write, clear_globs=False)
        namespace.update(test.globs)
    assert not runner.failures, report.getvalue()


def run_console(block: Block) -> None:
    """Run the pyferrum-kv commands of a console block; each succeeds and prints what it shows."""
    commands = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
    for command, shown in commands.findall(block.text):
        program, *argv = shlex.split(command, comments=True)
        if program != "pyferrum-kv":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = main(argv)
        assert code == 0, f"{block.where}: {command} exits {code}: {printed.getvalue()}"
        checker = doctest.OutputChecker()
        same = checker.check_output(shown, printed.getvalue(), _FLAGS)
        assert same, f"{block.where}: {command} prints\n{printed.getvalue()}\nnot\n{shown}"
