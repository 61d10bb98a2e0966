"""pyferrum-kv bundle: what the PTX bundle holds, and whether its files are as the manifest says."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from pyferrum_kv.bundle import PtxBundle, Usage, Variant
from pyferrum_kv.bundle.driver_versions import in_words
from pyferrum_kv.cli.terminal import Terminal, bytes_text, dotted
from pyferrum_kv.signature import Limits, Signature

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bundle",
        help="list entries, targets and limits; verify every file's hash",
        description="List what the PTX bundle holds and verify every file against the manifest: "
        "size, sha256, target, PTX ISA, entries and their parameters. Needs no CUDA. "
        "Exits 1 if a file is not what the manifest says.",
    )
    parser.add_argument(
        "entries", nargs="*", metavar="ENTRY", help="print the parameters of these entries instead"
    )
    parser.add_argument("--path", metavar="DIR", help="another bundle than the one installed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    bundle = PtxBundle.open(args.path) if args.path else PtxBundle.default()
    terminal = Terminal.of()
    if args.entries and not args.json:
        for signature in [bundle.signature(entry) for entry in args.entries]:
            _print_signature(terminal, signature, bundle.entries[signature.entry])
        return 0
    problems = bundle.verify()
    if args.json:
        terminal.line(json.dumps(_facts(bundle, problems), indent=2))
    else:
        _print_bundle(terminal, bundle, problems)
    return 1 if problems else 0


def _print_bundle(terminal: Terminal, bundle: PtxBundle, problems: list[str]) -> None:
    variants = [v for module in bundle.manifest.modules for v in module.variants]
    terminal.line(f"{terminal.paint('bold', 'PTX bundle')}  {bundle.folder}")
    if not variants:
        terminal.checks([("bad", "files", "none; run python build_ptx.py")])
        return
    size = bytes_text(sum(v.size_bytes for v in variants))
    found = f"{len(variants)} PTX files, {size}"
    terminal.checks(
        [
            ("bad", "files", f"{found}\n" + "\n".join(problems))
            if problems
            else ("ok", "files", f"{found}: every hash, entry and parameter as in the manifest"),
            ("fact", "PTX ISA", _distinct(dotted(v.ptx_version) for v in variants)),
            ("fact", "driver", f"CUDA {in_words(max(v.min_driver for v in variants))} or newer"),
            ("fact", "built by", f"NVRTC {_distinct(v.nvrtc_version for v in variants)}"),
        ]
    )
    for module in bundle.manifest.modules:
        targets = [v.target for v in module.variants]
        terminal.heading(module.name, module.sources[0].path if module.sources else "")
        terminal.table(
            ("entry", "parameters", "threads", *targets),
            [
                (
                    signature.entry,
                    str(len(signature.params)),
                    str(signature.limits.max_threads or "any"),
                    *(_cell(variant, signature.entry) for variant in module.variants),
                )
                for signature in module.entries
            ],
        )
    terminal.line()
    terminal.line("Under a target: registers a thread, and bytes spilled where there are any.")
    terminal.line("pyferrum-kv bundle ENTRY prints an entry's parameters and limits.")


def _cell(variant: Variant, entry: str) -> str:
    """Say what an entry takes on a target: 40, 128 + 96 B, or - where it has no such entry."""
    if entry not in variant.entries:
        return "-"
    usage = _usage(variant, entry)
    if usage is None:
        return "yes"
    spilled = usage.spill_store_bytes + usage.spill_load_bytes
    return f"{usage.registers} + {spilled} B" if spilled else str(usage.registers)


def _usage(variant: Variant, entry: str) -> Usage | None:
    """Return what ptxas said of an entry, for the variant's own target where it was asked."""
    usages = [usage for usage in variant.usage if usage.entry == entry]
    return next((u for u in usages if u.arch == variant.target), usages[0] if usages else None)


def _print_signature(terminal: Terminal, signature: Signature, variants: list[Variant]) -> None:
    targets = ", ".join(v.target for v in variants)
    terminal.heading(signature.entry, f"{len(signature.params)} parameters; {targets}")
    terminal.table(
        ("type", "name", "offset", "shape"),
        [(p.ctype or p.kind, p.name, str(p.offset), p.shape) for p in signature.params],
        left=(0, 1, 3),
    )
    for limit in _limits(signature.limits):
        terminal.line(f"  {limit}")


def _limits(limits: Limits) -> list[str]:
    said = [
        f"{name} {low} to {high}" + (f" in steps of {step}" if step != 1 else "")
        for name, (low, high, step) in limits.dims.items()
    ]
    if limits.required_threads:
        said.append(f"block_dim {limits.required_threads}")
    elif limits.max_threads:
        said.append(f"at most {limits.max_threads} threads a CTA")
    said.append(f"{limits.static_shared_bytes} bytes of static shared memory")
    if limits.max_dynamic_shared_bytes is not None:
        said.append(f"at most {limits.max_dynamic_shared_bytes} bytes of dynamic shared memory")
    return said


def _distinct(values: Any) -> str:
    return ", ".join(sorted(set(values)))


def _facts(bundle: PtxBundle, problems: list[str]) -> dict[str, Any]:
    return {"folder": str(bundle.folder), "problems": problems, **bundle.manifest.document}
