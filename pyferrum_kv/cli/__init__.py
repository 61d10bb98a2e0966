"""pyferrum-kv, the command: doctor, bundle, demo.

Exit codes, the same for every command:
    0  everything asked for holds
    1  something does not hold, or failed; the message says what and what to do
    2  the command line is wrong
    3  there is no NVIDIA driver, or no device, and the command was to use one
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pyferrum_kv import __version__
from pyferrum_kv.cli import bundle, demo, doctor
from pyferrum_kv.errors import DeviceNotFound, DriverNotFound, FerrumError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NO_DEVICE = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` without the program's name, or None."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except FerrumError as error:
        print(f"pyferrum-kv {args.command}: {error}", file=sys.stderr)
        absent = isinstance(error, (DriverNotFound, DeviceNotFound))
        return EXIT_NO_DEVICE if absent else EXIT_FAILED
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="pyferrum-kv",
        description="Prebuilt PTX kernels for an INT8 paged KV cache: what works here, what is in "
        "the bundle, and a demonstration.",
        epilog="exit codes: 0 everything holds; 1 something does not; 2 wrong command line; "
        "3 no driver or device",
    )
    parser.add_argument("--version", action="version", version=f"pyferrum-kv {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    for module in (doctor, bundle, demo):
        module.add_to(commands)
    return parser
