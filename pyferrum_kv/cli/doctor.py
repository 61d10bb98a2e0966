"""pyferrum-kv doctor: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from pyferrum_kv.cli.diagnosis import Diagnosis, as_document, diagnose
from pyferrum_kv.cli.terminal import Terminal

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what works on this machine, and what to do about what does not",
        description="Look at the installation, the PTX bundle, the driver and every device; hold "
        "the bundle against each of them and load it there. Useful without a GPU too. "
        "Exits 0 if the kernels run on every device, 1 if something stops them, 3 if there is no "
        "driver or no device.",
    )
    parser.add_argument(
        "--driver",
        choices=("cuda", "virtual"),
        help="look at this driver; the default is PYFERRUM_KV_DRIVER, else cuda",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    diagnosis = diagnose(args.driver)
    show(diagnosis, Terminal.of(), as_json=args.json)
    return exit_code(diagnosis)


def show(diagnosis: Diagnosis, terminal: Terminal, *, as_json: bool) -> None:
    """Write the diagnosis for a reader, or for a program."""
    if as_json:
        terminal.line(json.dumps(as_document(diagnosis), indent=2))
        return
    for section in diagnosis.sections:
        terminal.line(terminal.paint("bold", section.title))
        terminal.checks(section.findings)
        terminal.line()
    terminal.line(terminal.paint("bold", "So: ") + diagnosis.conclusion)


def exit_code(diagnosis: Diagnosis) -> int:
    if not diagnosis.bundle_is_sound:
        return 1
    if not diagnosis.devices_found:
        return 3
    return 0 if diagnosis.devices_that_work == diagnosis.devices_found else 1
