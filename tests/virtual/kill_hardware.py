"""Mutants on a GPU, bare and under each tool of compute-sanitizer: many watched processes at once.

A process takes a few mutants in turn and says which it is at. What hangs or ends its context costs
that mutant alone: the process is ended, and another one goes on with the rest.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from virtual.mutants import mutants, run

from pyferrum_kv import CudaContext
from pyferrum_kv.errors import DriverError

BARE = "bare"  # no tool: the result alone
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
AT_ONCE = 6  # mutants of a process; its start takes as long as two or three of them
ALONE = {"illegal_address", "misaligned", "use_after_free", "trap", "uninitialized", "warp_sync"}
"""What the virtual device reports of mutants that end a process, or fill the sanitizer's output."""

OPTIONS = {
    "memcheck": ("--destroy-on-device-error kernel", "--report-api-errors no"),
    "racecheck": ("--racecheck-report analysis",),
    "synccheck": (),
    "initcheck": ("--initcheck-address-space all",),
}
COMMON = ("--launch-timeout 120", "--show-backtrace device", "--print-limit 3000")


# ------------------------------------------------------------------ child


def child(keys: list[str], stall_s: float) -> int:
    """Run mutants and say what came of each; the first of them that faults is the last."""
    faulthandler.dump_traceback_later(4 * stall_s, exit=True)  # a driver's start may take long
    clean: dict[str, bytes] = {}
    with CudaContext.new(0) as context:
        _say("DEVICE", context.device.name)
        for mutant, shape in mutants():
            if mutant.key not in keys:
                continue
            _say("RUN", mutant.key)
            faulthandler.dump_traceback_later(stall_s, exit=True)
            try:
                got = run(context, mutant, shape)
            except DriverError as error:
                _say("RESULT", mutant.key, error.name.removeprefix("CUDA_ERROR_").lower())
                break  # nothing more can be done with this context
            if mutant.fault == "none":
                clean[mutant.entry] = got
            is_same = got == clean.get(mutant.entry)
            _say("RESULT", mutant.key, "same" if is_same else "differs")
    faulthandler.cancel_dump_traceback_later()
    return 0


def _say(*words: str) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


# ----------------------------------------------------------------- parent


@dataclass(frozen=True)
class Task:
    """Mutants that one process takes in turn, under one tool."""

    tool: str
    keys: tuple[str, ...]


@dataclass
class Outcome:
    """What a process said: results by mutant, reports by mutant, and the mutants not reached."""

    task: Task
    output: str
    device: str = ""
    results: dict[str, str] = field(default_factory=dict)
    reports: dict[str, list[str]] = field(default_factory=dict)
    left: tuple[str, ...] = ()


class Runner:
    """Runs tasks, several at once, and hands each outcome to `take` as it comes."""

    def __init__(
        self, binary: str, take: Callable[[Outcome], None], *, workers: int, stall_s: float
    ) -> None:
        self.binary, self.take, self.stall_s = binary, take, stall_s
        if not os.access(binary, os.X_OK):  # some wheels carry it without its permission
            raise SystemExit(f"{binary} cannot be run; chmod +x it, or name another")
        self.known_options = set(re.findall(r"--[a-z][\w-]+", _said(binary, "--help")))
        version = re.search(r"Version (\S+)", _said(binary, "--version"))
        self.version = version[1] if version else "unknown"
        self.symbols = {mutant.symbol: mutant.key for mutant, _ in mutants()}
        self.live: set[int] = set()
        self.is_over = False
        self.slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(workers):
            self.slots.put(slot)
        self.pool = ThreadPoolExecutor(workers)
        self.caches = TemporaryDirectory(prefix="kill_matrix_")

    def run(self, tasks: list[Task], until: float) -> bool:
        """True when every task was done before `until` on the monotonic clock."""
        pending: set[Future[Outcome]] = {self.pool.submit(self._process, task) for task in tasks}
        try:
            while pending:
                left_s = until - time.monotonic()
                done, pending = wait(pending, max(left_s, 0), FIRST_COMPLETED)
                if not done:
                    return False
                for future in done:
                    outcome = future.result()
                    pending |= {self.pool.submit(self._process, t) for t in _rest(outcome)}
                    self.take(outcome)
            return True
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        self._end_all()
        self.pool.shutdown(cancel_futures=True)
        self.caches.cleanup()

    def _end_all(self) -> None:
        self.is_over = True
        for pid in list(self.live):
            _end(pid)

    def _command(self, task: Task, slot: int) -> list[str]:
        keys = task.keys
        if task.tool == BARE:  # results are compared: with the unharmed kernel's, in one process
            keys = (*dict.fromkeys(f"{key.split(':')[0]}:none" for key in keys), *keys)
        me = [sys.executable, str(Path(__file__).with_name("kill_matrix.py"))]
        me += ["--child", json.dumps(keys), "--stall", str(self.stall_s)]
        if task.tool == BARE:
            return me
        # each instance listens on up to ten ports from its own on
        options = (f"--port {49152 + 16 * slot}", *COMMON, *OPTIONS[task.tool])
        chosen = [option.split() for option in options if option.split()[0] in self.known_options]
        return [
            self.binary,
            "--tool",
            task.tool,
            *(word for words in chosen for word in words),
            *me,
        ]

    def _process(self, task: Task) -> Outcome:
        slot = self.slots.get()
        path = Path(self.caches.name) / f"output.{slot}"
        kept = {"CUDA_CACHE_PATH": f"{self.caches.name}/jit"}  # each mutant is compiled once
        try:
            with path.open("wb") as output:
                process = subprocess.Popen(
                    self._command(task, slot),
                    **{"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True},
                    env=kept | dict(os.environ),
                )
                self.live.add(process.pid)
                if self.is_over:  # it began while the others were ended
                    _end(process.pid)
                try:
                    self._watch(process, path)
                finally:
                    _end(process.pid)  # what it started, where it has ended itself
                    self.live.discard(process.pid)
                    process.wait()
            return outcome_of(task, path.read_text("utf-8", "replace"), self.symbols)
        finally:
            self.slots.put(slot)

    def _watch(self, process: subprocess.Popen[bytes], path: Path) -> None:
        """Until it ends, or has written nothing for so long that its own watch must have failed."""
        size, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            if (now := path.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > 5 * self.stall_s:
                return


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _rest(outcome: Outcome) -> list[Task]:
    task = outcome.task
    if len(task.keys) > 1 and "not printed" in outcome.output:  # whose reports, nobody knows
        return [Task(task.tool, (key,)) for key in task.keys]
    return [Task(task.tool, outcome.left)] if outcome.left else []


def tasks_of(tool: str, keys: list[str], kinds: dict[str, list[str]]) -> list[Task]:
    """Mutants of one entry together, those that fault or are noisy each alone, those first."""
    alone = [key for key in keys if ALONE & set(kinds[key])]
    tasks = [Task(tool, (key,)) for key in alone]
    entries = dict.fromkeys(key.split(":")[0] for key in keys)
    for entry in entries:
        quiet = [k for k in keys if k.split(":")[0] == entry and k not in alone]
        tasks += [Task(tool, tuple(quiet[i : i + AT_ONCE])) for i in range(0, len(quiet), AT_ONCE)]
    return tasks


def outcome_of(task: Task, output: str, symbols: dict[str, str]) -> Outcome:
    """Read what a process and its sanitizer wrote."""
    outcome, at = Outcome(task, output), ""
    for line in output.splitlines():
        if not line.startswith('["'):
            continue
        try:
            word, *rest = json.loads(line)
        except ValueError:  # cut in the middle
            continue
        if word == "DEVICE":
            outcome.device = rest[0]
        elif word == "RUN":
            at = rest[0]
        elif word == "RESULT":
            at = ""
            outcome.results[rest[0]] = rest[1]
    reports = reports_of(output, symbols)
    reached = set(outcome.results)
    if at:  # its process was ended over it
        outcome.results[at] = "hang" if "Timeout (" in output else "crash"
        reached.add(at)
    outcome.reports = {key: reports.get(key, []) for key in task.keys if key in reached}
    # after a reference that failed, or a process that never began, another try would be the same
    if reached & set(task.keys):
        outcome.left = tuple(key for key in task.keys if key not in reached)
    return outcome


def reports_of(output: str, symbols: dict[str, str]) -> dict[str, list[str]]:
    """compute-sanitizer's first lines, by the mutant that their blocks name."""
    found: dict[str, set[str]] = {}
    # a report ends with an empty line, or where the next one's title begins
    for block in re.split(r"^=========(?: *$| (?=\S))", output, flags=re.MULTILINE):
        title = block.strip().split("\n", 1)[0].removeprefix("=========").strip()
        named = [key for symbol, key in symbols.items() if re.search(rf"\b{symbol}\b", block)]
        for key in named:
            found.setdefault(key, set()).add(_title(title))
    return {key: sorted(titles) for key, titles in found.items()}


def _title(line: str) -> str:
    """Without what differs from run to run: addresses, counts, offsets and the mutant's name."""
    line = re.sub(r"\b\w+__\w+(?:\(\))?[+:]0x[0-9a-f]+(?: in )?", "", line)
    return re.sub(r"0x[0-9a-f]+|\d+ hazards?|\d+ bytes?", "#", line)[:90]
