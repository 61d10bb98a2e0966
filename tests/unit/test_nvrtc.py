"""Compiling with the pinned NVRTC: what it writes, what it refuses, and that another is refused."""

from __future__ import annotations

import locale
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyferrum_kv import nvrtc
from pyferrum_kv.errors import BuildError, CompileError, NvrtcNotFound
from pyferrum_kv.nvrtc import CompileOptions, compile_ptx
from pyferrum_kv.ptx_reader import read_ptx

SOURCE = """
#include "twice.cuh"
extern "C" __global__ void k(float* x) { x[threadIdx.x] = twice(x[threadIdx.x]); }
"""
HEADERS = {"twice.cuh": "static __device__ float twice(float x) {\n    return x * 2.0f;\n}\n"}


def test_ptx_of_the_pinned_version() -> None:
    compiled = compile_ptx(SOURCE, headers=HEADERS)
    info = read_ptx(compiled.ptx.decode())
    assert (info.version, info.target, list(info.entries)) == ((8, 0), "sm_80", ["k"])
    assert compiled.nvrtc_version == nvrtc.WANTED_WHEEL
    assert not compiled.ptx.endswith(b"\0")
    assert compiled.log == ""


def test_the_same_bytes_wherever_it_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = compile_ptx(SOURCE, "/p/kernels/k.cu", headers=HEADERS).ptx
    monkeypatch.chdir(tmp_path)
    there = compile_ptx(SOURCE, "/p/kernels/k.cu", headers=HEADERS).ptx
    assert here == there
    assert b'"/p/kernels/k.cu"' in here
    assert b'"/p/kernels/twice.cuh"' in here
    assert str(tmp_path).encode() not in here


def test_the_locale_stays_as_it_was() -> None:
    def before_and_after() -> tuple[str, str]:
        before = locale.nl_langinfo(locale.CODESET)
        compile_ptx(SOURCE, headers=HEADERS)
        return before, locale.nl_langinfo(locale.CODESET)

    with ThreadPoolExecutor(1) as fresh_thread:  # the locale is the thread's
        before, after = fresh_thread.submit(before_and_after).result()
    assert before == after


def test_options_become_flags() -> None:
    options = CompileOptions(
        arch="compute_90",
        ftz=True,
        prec_sqrt=False,
        prec_div=False,
        fmad=True,
        use_fast_math=True,
        maxrregcount=64,
        include_paths=("/a",),
        defines=("N=1",),
        lineinfo=False,
        options=("--device-debug",),
    )
    assert options.flags() == (
        "--gpu-architecture=compute_90",
        "--std=c++17",
        "--ftz=true",
        "--prec-sqrt=false",
        "--prec-div=false",
        "--fmad=true",
        "--use_fast_math",
        "--maxrregcount=64",
        "--define-macro=N=1",
        "--include-path=/a",
        "--device-debug",
    )


def test_options_reach_the_compiler() -> None:
    source = 'extern "C" __global__ void k(float* x) { x[0] = x[1] / x[2] * N; }'
    fast = CompileOptions(use_fast_math=True, defines=("N=7.0f",), lineinfo=False)
    text = compile_ptx(source, options=fast).ptx
    assert b"div.approx.ftz.f32" in text
    assert b".loc" not in text


def test_a_refused_source_carries_the_log() -> None:
    with pytest.raises(CompileError, match=r"kernels/bad\.cu\(2\): error") as caught:
        compile_ptx("\nthis is no C++", "/pyferrum_kv/kernels/bad.cu")
    assert caught.value.source == "/pyferrum_kv/kernels/bad.cu"
    assert "--gpu-architecture=compute_80" in caught.value.options
    assert "error" in caught.value.log


def test_an_architecture_that_nvrtc_does_not_know_is_refused() -> None:
    with pytest.raises(CompileError, match="compute_120"):
        compile_ptx(SOURCE, options=CompileOptions(arch="compute_120"), headers=HEADERS)


def fake_bindings(monkeypatch: pytest.MonkeyPatch, version: object) -> None:
    """Put a stand-in where `from cuda.bindings import nvrtc` looks."""
    import cuda.bindings.nvrtc as real

    def nvrtc_version() -> object:
        if isinstance(version, Exception):
            raise version
        return (real.nvrtcResult.NVRTC_SUCCESS, *version)  # type: ignore[misc]

    stand_in = types.SimpleNamespace(nvrtcVersion=nvrtc_version, nvrtcResult=real.nvrtcResult)
    monkeypatch.setattr("cuda.bindings.nvrtc", stand_in)


def test_another_version_is_refused_with_found_and_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bindings(monkeypatch, (13, 0))
    with pytest.raises(
        NvrtcNotFound, match=r"found NVRTC 13\.0; wanted 12\.0.*nvrtc-cu12==12\.0\.76"
    ):
        nvrtc.open_nvrtc()
    assert nvrtc.open_nvrtc(wanted=None) is not None


def test_no_nvrtc_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bindings(monkeypatch, RuntimeError("Failed to dlopen libnvrtc.so.12"))
    with pytest.raises(NvrtcNotFound, match=r"not found .*pip install nvidia-cuda-nvrtc-cu12=="):
        nvrtc.open_nvrtc()


def test_a_failing_call_is_named() -> None:
    bindings = nvrtc.open_nvrtc()
    with pytest.raises(BuildError, match="nvrtcGetPTXSize: NVRTC_ERROR_INVALID_PROGRAM"):
        nvrtc._call(bindings, "nvrtcGetPTXSize", bindings.nvrtcProgram(0))
