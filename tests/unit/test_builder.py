"""From sources to a bundle: sources that are not ours, and everything that must stop a build."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.sources import NEWER, SAXPY, SHARED, STRUCT, fake_ptxas, write_sources

from pyferrum_kv.build import Ptxas, assemble, build, check, check_sources, compilation, write
from pyferrum_kv.build import builder as builder_module
from pyferrum_kv.bundle import PtxBundle
from pyferrum_kv.bundle.manifest import MANIFEST
from pyferrum_kv.errors import BuildError, CompileError, NvrtcNotFound
from pyferrum_kv.nvrtc import CompiledPtx, CompileOptions

pytestmark = pytest.mark.slow  # they compile

ONE = ("compute_80",)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return write_sources(tmp_path / "kernels", saxpy=SAXPY, windowed=STRUCT, reversed=SHARED)


def test_a_bundle_of_foreign_sources(sources: list[Path], tmp_path: Path) -> None:
    built = build(sources, ptxas=Ptxas.at(fake_ptxas(tmp_path)))
    folder = tmp_path / "ptx"
    changed = write(built, folder)
    assert changed[-1] == MANIFEST
    assert len(changed) == 7
    bundle = PtxBundle.open(folder)
    assert bundle.verify() == []
    assert bundle.manifest == built.manifest

    saxpy = bundle.signature("saxpy")
    assert str(saxpy) == "saxpy(const element* x, element* y, element a, int num_elements)"
    assert [p.pointee for p in saxpy.params] == ["f32", "f32", "", ""]
    assert [p.kind for p in saxpy.params] == ["pointer", "pointer", "float", "int"]
    assert saxpy.params[0].shape == "[num_elements]"
    assert (saxpy.limits.max_threads, saxpy.limits.required_threads) == (128, (128, 1, 1))

    window = bundle.signature("windowed").params[1]
    assert (window.kind, window.ctype, window.size_bytes) == ("struct", "Window", 16)
    assert bundle.signature("windowed").params[2].kind == "uint"
    limits = bundle.signature("reversed").limits
    assert (limits.static_shared_bytes, limits.max_dynamic_shared_bytes) == (128, 49152)

    module = bundle.modules["saxpy"]
    assert [source.path for source in module.sources] == ["kernels/saxpy.cu", "kernels/element.cuh"]
    older, newer = module.variants
    assert (older.target, older.ptx_version, older.min_driver) == ("sm_80", (8, 0), (12, 0))
    assert (older.nvrtc_version, older.ptxas_version) == ("12.0.76", "12.9.86")
    assert "--gpu-architecture=compute_90" in newer.options
    archs = [usage.arch for usage in older.usage]
    assert archs == ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
    assert [usage.arch for usage in newer.usage] == ["sm_90", "sm_100", "sm_120"]
    row = newer.usage[0]
    assert (row.registers, row.stack_bytes, row.static_shared_bytes) == (90, 16, 128)
    assert (row.spill_store_bytes, row.spill_load_bytes) == (8, 4)


def test_the_same_bytes_in_another_folder(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "a" / "b" / "kernels"
    shutil.copytree(sources[0].parent, elsewhere)
    here = build(sources, ONE).files
    monkeypatch.chdir(elsewhere)
    there = build([elsewhere / path.name for path in reversed(sources)], ONE).files
    assert here == there
    for content in here.values():
        assert str(tmp_path).encode() not in content
    assert b'"/pyferrum_kv/kernels/element.cuh"' in here["saxpy.sm_80.ptx"]


def test_line_information_keeps_rows_and_loses_the_inlining_trail(sources: list[Path]) -> None:
    text = build(sources, ONE).files["saxpy.sm_80.ptx"]
    header_file = text.split(b'"/pyferrum_kv/kernels/element.cuh"')[0].split()[-1]
    assert b"\t.loc\t" + header_file + b" 4 " in text  # the inlined body's own line
    assert b"inlined_at" not in text


def test_an_entry_for_newer_targets_only(tmp_path: Path) -> None:
    built = build(write_sources(tmp_path, newer=NEWER, saxpy=SAXPY))
    newer, saxpy = built.manifest.modules
    assert [v.target for v in newer.variants] == ["sm_90"]
    assert [v.target for v in saxpy.variants] == ["sm_80", "sm_90"]
    assert "newer.sm_80.ptx" not in built.files


def test_unchanged_modules_are_taken_over(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ptx"
    first = build(sources, ONE)
    write(first, folder)
    compiled: list[str] = []
    real = builder_module.compiled_alike

    def counting(source: str, name: str, *args: Any) -> object:
        compiled.append(name.rpartition("/")[2])
        return real(source, name, *args)

    monkeypatch.setattr(builder_module, "compiled_alike", counting)

    def again(archs: tuple[str, ...] = ONE, ptxas: Ptxas | None = None) -> list[str]:
        compiled.clear()
        build(sources, archs, ptxas, earlier=PtxBundle.open(folder))
        return list(compiled)

    assert again() == []
    assert build(sources, ONE, earlier=PtxBundle.open(folder)).files == first.files
    (tmp_path / "kernels" / "element.cuh").write_text("typedef double element;\n" + HELPER)
    assert again() == ["saxpy.cu"]
    (folder / "windowed.sm_80.ptx").write_text("damaged")
    assert again() == ["saxpy.cu", "windowed.cu"]
    assert again(("compute_90",)) == ["reversed.cu", "saxpy.cu", "windowed.cu"]
    assert again(ptxas=Ptxas.at(fake_ptxas(tmp_path))) == [
        "reversed.cu",
        "saxpy.cu",
        "windowed.cu",
    ]


HELPER = "static __device__ element multiply_add(element a, element x, element y) { return a; }"


def test_a_stale_file_is_removed_and_an_equal_one_left_alone(
    sources: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "ptx"
    write(build(sources, ONE), folder)
    assert write(build(sources, ONE), folder) == []
    (folder / "notes.txt").write_text("mine")
    assert write(build(sources[:2], ONE), folder) == [MANIFEST, "reversed.sm_80.ptx"]
    assert sorted(path.name for path in folder.iterdir()) == [
        MANIFEST,
        "notes.txt",
        "saxpy.sm_80.ptx",
        "windowed.sm_80.ptx",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "__device__ int __dp4a(int, int, int);\n"
            'extern "C" __global__ void k(int* x) { x[0] = __dp4a(x[1], x[2], x[3]); }',
            "k.cu: _Z6__dp4aiii is left unresolved, so the PTX does not load",
        ),
        ("__global__ void k(int* x) { x[0] = 1; }", 'k.cu: entry _Z1kPi .* wanted extern "C"'),
        (
            'extern "C" __global__ void k(int* x) { x[0] = 1; }\n#if 0\n'
            'extern "C" __global__ void gone(int* x) {}\n#endif\n',
            "k.cu: declared, and in no PTX: gone",
        ),
        (
            "#if __CUDA_ARCH__ >= 900\n#define T double\n#else\n#define T float\n#endif\n"
            'extern "C" __global__ void k(T x) {}',
            "k.cu: k: parameter 'x' is float",
        ),
        ('#include "nowhere.cuh"\n', 'k.cu: #include "nowhere.cuh" is not in'),
        (
            '#line 1 "/home/me/k.cu"\nextern "C" __global__ void k(int* x) { x[0] = 1; }',
            "line information names /home/me/k.cu",
        ),
    ],
)
def test_what_must_stop_a_build(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(write_sources(tmp_path, k=text))


def test_a_compile_error_carries_the_log(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"/pyferrum_kv/kernels/k\.cu\(1\): error"):
        build(write_sources(tmp_path, k="no C++"), ONE)


def test_calls_are_not_numbered_by_the_process(tmp_path: Path) -> None:
    called = write_sources(
        tmp_path,
        k="static __device__ __noinline__ int next(int x) { return x * x + 1; }\n"
        'extern "C" __global__ void k(int* x) { x[0] = next(x[1]); }',
    )
    text = build(called, ONE).files["k.sm_80.ptx"]
    assert b"// callseq\n" in text
    assert text == build(called, ONE).files["k.sm_80.ptx"]


def texts_by_turns(monkeypatch: pytest.MonkeyPatch, *texts: bytes) -> None:
    """A compiler that gives these texts, one a compilation."""
    turns: Iterator[bytes] = iter(texts)

    def compile_ptx(source: str, name: str, *args: Any, **named: Any) -> CompiledPtx:
        return CompiledPtx(name, next(turns), "", "12.0.76")

    monkeypatch.setattr(compilation, "compile_ptx", compile_ptx)


@pytest.mark.parametrize(
    ("texts", "known", "taken"),
    [
        ((b"a", b"a"), None, b"a"),
        ((b"b", b"a", b"a"), None, b"a"),  # one compilation that went another way
        ((b"a", b"b", b"a"), None, b"a"),
        ((b"a",), b"a", b"a"),
        ((b"b", b"a"), b"a", b"a"),  # not drift: the text on disk comes too
        ((b"b", b"b"), b"a", b"b"),  # drift
    ],
)
def test_a_text_counts_when_it_is_known_or_came_twice(
    monkeypatch: pytest.MonkeyPatch, texts: tuple[bytes, ...], known: bytes | None, taken: bytes
) -> None:
    texts_by_turns(monkeypatch, *texts)
    options = CompileOptions()
    assert compilation.compiled_alike("", "k.cu", options, {}, known).ptx == taken


def test_a_compiler_that_never_agrees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    texts_by_turns(monkeypatch, *(bytes([i]) for i in range(100)))
    with pytest.raises(BuildError, match=r"^k\.cu: NVRTC gave 8 different texts of 8"):
        compilation.compiled_alike("", "k.cu", CompileOptions(), {})


def test_no_source_is_no_bundle() -> None:
    with pytest.raises(BuildError, match=r"no \.cu file"):
        build([])


def test_another_patch_of_nvrtc_is_refused(
    sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_module, "WANTED_WHEEL", "12.0.140")
    with pytest.raises(NvrtcNotFound, match=r"found NVRTC 12\.0\.76; wanted 12\.0\.140"):
        build(sources, ONE)


# ----------------------------------------------------------------- check


def test_check_finds_every_kind_of_drift(sources: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "ptx"
    built = build(sources, ONE)
    write(built, folder)
    assert check(built, folder) == []
    assert check_sources(folder, sources) == []

    (folder / "saxpy.sm_80.ptx").write_bytes(b"edited")
    (folder / "windowed.sm_80.ptx").unlink()
    (folder / "other.sm_80.ptx").write_bytes(b"")
    manifest = folder / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"12.0.76", b"12.0.77"))
    assert check(built, folder) == [
        "ptx/manifest.json is not what the sources give; run python build_ptx.py",
        "ptx/saxpy.sm_80.ptx is not what its source gives; run python build_ptx.py",
        "ptx/windowed.sm_80.ptx is missing; run python build_ptx.py",
        "ptx/other.sm_80.ptx belongs to no source; run python build_ptx.py",
    ]
    manifest.write_bytes(b"{}")
    assert "ptx/manifest.json is not what the sources give" in check(built, folder)[0]


def test_check_without_ptxas_leaves_the_usage_out(sources: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "ptx"
    measured = build(sources, ONE, Ptxas.at(fake_ptxas(tmp_path)))
    write(measured, folder)
    assert check(build(sources, ONE), folder) == []
    manifest = folder / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b'"registers": 80', b'"registers": 81'))
    assert check(build(sources, ONE), folder) == []
    assert len(check(measured, folder)) == 1


def test_check_sources_names_the_file_that_changed(sources: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "ptx"
    write(build(sources, ONE), folder)
    header = sources[0].parent / "element.cuh"
    header.write_text(header.read_text(encoding="utf-8") + "// later\n", encoding="utf-8")
    (new,) = write_sources(sources[0].parent / "more", more=NEWER)
    assert check_sources(folder, [*sources[:2], new]) == [
        "more.cu is not in ptx/manifest.json; run python build_ptx.py",
        "kernels/element.cuh changed since ptx/saxpy.*.ptx was built; run python build_ptx.py",
        "ptx/manifest.json has module reversed, whose source is gone; run python build_ptx.py",
    ]
    assert "is missing" in check_sources(tmp_path / "nowhere", sources)[0]
    (folder / MANIFEST).write_bytes(b"{")
    assert "not readable as JSON" in check_sources(folder, sources)[0]


# ----------------------------------------------------------------- ptxas


def test_ptxas_is_asked_for_the_architectures_that_it_knows(
    sources: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "ptx"
    write(build(sources[:1]), folder)
    asked: list[str] = []
    old = Ptxas.at(fake_ptxas(tmp_path, "12.0.76", ("sm_80", "sm_90")))
    assert assemble(folder, old, asked.append) == []
    assert sorted(asked) == [
        "saxpy.sm_80.ptx for sm_80",
        "saxpy.sm_80.ptx for sm_90",
        "saxpy.sm_90.ptx for sm_90",
    ]


def test_what_ptxas_refuses_is_reported(sources: list[Path], tmp_path: Path) -> None:
    old = Ptxas.at(fake_ptxas(tmp_path, "12.0.76", ("sm_80",)))
    with pytest.raises(BuildError, match=r"^k: ptxas 12\.0\.76 for sm_80: .*Not a name"):
        old.assemble("k", b"bad_instruction", "sm_80")
    folder = tmp_path / "ptx"
    write(build(sources[:1], ONE), folder)
    (folder / "saxpy.sm_80.ptx").write_bytes(b"bad_instruction")
    assert "sha256" in " ".join(assemble(folder, old, print)) or "size_bytes" in " ".join(
        assemble(folder, old, print)
    )


def test_a_ptxas_may_be_named_by_a_relative_path(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ptxas = fake_ptxas(tmp_path)
    monkeypatch.chdir(tmp_path)
    usage = (
        build(sources[:1], ONE, Ptxas.at(f"./{ptxas.name}")).manifest.modules[0].variants[0].usage
    )
    assert len(usage) == 6


def test_what_is_no_ptxas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not run as ptxas"):
        Ptxas.at(tmp_path / "nowhere")
    with pytest.raises(BuildError, match="does not answer as ptxas does"):
        Ptxas.at(shutil.which("true") or "/bin/true")
