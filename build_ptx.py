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

from pyferrum_kv.build import Ptxas, assemble, build, check, check_sources, write
from pyferrum_kv.build.builder import ARCHS, Progress
from pyferrum_kv.build.ptxas import WANTED_WHEEL, WHEEL
from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.errors import BuildError, BundleError

ROOT = Path(__file__).resolve().parent
PTX = ROOT / "ptx"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when built, or when nothing differs."""
    args = _parser().parse_args(arguments)
    try:
        return _run(args)
    except (BuildError, BundleError) as error:
        return _fail(str(error))


def _run(args: argparse.Namespace) -> int:
    sources = [Path(source) for source in args.sources] or sorted((ROOT / "kernels").glob("*.cu"))
    if args.sources and args.out == PTX:
        return _fail("SRC.cu needs --out: ptx/ holds all of kernels/")
    name = args.out.name
    if args.sources_only:
        problems = check_sources(args.out, sources)
        return _report(problems, f"{name}/ is of these sources (their hashes alone were compared)")
    if args.assemble:
        ptxas = Ptxas.at(args.assemble)
        progress = _progress()
        problems = assemble(args.out, ptxas, progress)
        progress("")
        return _report(problems, f"{name}/ assembles with ptxas {ptxas.version}")
    measure = _ptxas(args.ptxas)
    if measure is None and not args.check:
        return _fail(f"ptxas was not found; pip install {WHEEL}=={WANTED_WHEEL}, or --ptxas PATH")
    earlier = None if args.check or args.force else _earlier(args.out)
    progress = _progress()
    known = {path.name: path.read_bytes() for path in args.out.glob("*.ptx")}
    built = build(sources, args.arch or ARCHS, measure, progress, earlier, known)
    progress("")
    for warning in built.warnings:
        print(warning, file=sys.stderr)
    if args.check:
        note = "" if measure else " (register counts were not compared: there is no ptxas here)"
        problems = check(built, args.out)
        if problems and not check_sources(args.out, sources):
            # NVRTC 12.0 was seen to differ once in many compilations; drift differs again.
            print("\n".join(problems), "compiling once more", sep="\n", file=sys.stderr)
            built = build(sources, args.arch or ARCHS, measure, progress, known=known)
            problems = check(built, args.out)
            progress("")
        return _report(problems, f"{name}/ is what its sources give{note}")
    changed = write(built, args.out)
    print("\n".join(f"{name}/{file}" for file in changed) or "nothing changed")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_ptx.py", description="Build the PTX bundle from its CUDA sources."
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="SRC.cu", help="default: kernels/*.cu")
    add("--out", type=Path, default=PTX, help="bundle folder; default: ptx")
    add(
        "--arch",
        action="append",
        metavar="compute_NN",
        help=f"target, may be repeated; default: {' '.join(ARCHS)}",
    )
    add("--ptxas", metavar="PATH", help=f"ptxas {WANTED_WHEEL}; default: the installed wheel's")
    add("--force", action="store_true", help="compile every source, changed or not")
    add("--check", action="store_true", help="compare and write nothing")
    add(
        "--sources-only",
        action="store_true",
        help="compare source hashes only and write nothing; needs neither NVRTC nor ptxas",
    )
    add(
        "--assemble",
        metavar="PTXAS",
        help="have a ptxas of any version take every PTX of the bundle; writes nothing",
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


def _report(problems: Sequence[str], fine: str) -> int:
    if problems:
        return _fail("\n".join(problems))
    print(fine)
    return 0


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
