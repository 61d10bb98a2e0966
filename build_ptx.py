"""Build the PTX bundle: kernels/*.cu -> ptx/*.ptx and ptx/manifest.json.

    python build_ptx.py             compile sources that changed and write what differs
    python build_ptx.py --check     compile all, compare with ptx/, write nothing; 1 if they differ

Needs NVRTC 12.0.76, and ptxas 12.9.86 for the register counts: pip install '.[build]'
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyferrum_kv.build import Ptxas, build, check, check_sources, write
from pyferrum_kv.build.builder import ARCHS, Progress
from pyferrum_kv.build.ptxas import WANTED_WHEEL, WHEEL
from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.errors import BuildError, BundleError

ROOT = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    sources = [Path(source) for source in args.sources] or sorted((ROOT / "kernels").glob("*.cu"))
    try:
        if args.sources_only:
            return _report(check_sources(args.out, sources), "source hashes alone were compared")
        ptxas = _ptxas(args.ptxas)
        if ptxas is None and not args.check:
            raise BuildError(
                f"ptxas was not found; pip install {WHEEL}=={WANTED_WHEEL}, or --ptxas PATH"
            )
        earlier = None if args.check or args.force else _earlier(args.out)
        built = build(sources, args.arch or ARCHS, ptxas, _progress(), earlier)
    except BuildError as error:
        return _fail(str(error))
    for warning in built.warnings:
        print(warning, file=sys.stderr)
    if args.check:
        note = "" if ptxas else "register counts were not compared: there is no ptxas here"
        return _report(check(built, args.out), note)
    changed = write(built, args.out)
    print("\n".join(f"{args.out.name}/{name}" for name in changed) or "nothing changed")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_ptx.py", description="Build the PTX bundle from its CUDA sources."
    )
    parser.add_argument("sources", nargs="*", metavar="SRC.cu", help="default: kernels/*.cu")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "ptx", help="bundle folder; default: ptx"
    )
    parser.add_argument(
        "--arch",
        action="append",
        metavar="compute_NN",
        help=f"target, may be repeated; default: {' '.join(ARCHS)}",
    )
    parser.add_argument(
        "--ptxas", metavar="PATH", help=f"ptxas {WANTED_WHEEL}; default: the wheel's"
    )
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    parser.add_argument("--force", action="store_true", help="compile every source, changed or not")
    parser.add_argument(
        "--sources-only",
        action="store_true",
        help="with --check: compare source hashes only; needs neither NVRTC nor ptxas",
    )
    return parser


def _ptxas(path: str | None) -> Ptxas | None:
    ptxas = Ptxas.at(path) if path else Ptxas.find()
    if ptxas is not None and ptxas.version != WANTED_WHEEL:
        raise BuildError(
            f"found ptxas {ptxas.version}; wanted {WANTED_WHEEL}, whose register counts the "
            f"manifest holds; pip install {WHEEL}=={WANTED_WHEEL}"
        )
    return ptxas


def _earlier(folder: Path) -> PtxBundle | None:
    """The bundle on disk, whose unchanged modules need no compiling."""
    try:
        return PtxBundle.open(folder)
    except BundleError:
        return None


def _progress() -> Progress:
    """Show each step in one line of a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda step: None
    return lambda step: print(f"\r\033[K{step}", end="", file=sys.stderr, flush=True)


def _report(problems: Sequence[str], note: str) -> int:
    if problems:
        return _fail("\n".join(problems))
    print("ptx/ is in step with its sources" + (f" ({note})" if note else ""))
    return 0


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
