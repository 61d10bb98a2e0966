"""Small CUDA sources that are not ours, and a stand-in for ptxas."""

from __future__ import annotations

import sys
from pathlib import Path

SAXPY = """
#include "element.cuh"
// LIMITS block_dim 128; num_elements 1..1073741824
extern "C" __global__ void __launch_bounds__(128) saxpy(
    const element* __restrict__ x,  // [num_elements]
    element* __restrict__ y,        // [num_elements]
    element a,
    int num_elements) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < num_elements) y[i] = multiply_add(a, x[i], y[i]);
}
"""
ELEMENT = """#pragma once
typedef float element;
static __device__ __forceinline__ element multiply_add(element a, element x, element y) {
    return a * x + y;
}
"""
STRUCT = """
struct Window { double scale; int begin; unsigned char mode; };
extern "C" __global__ void windowed(
    float* out,            // [num_elements]
    const Window window,   // by value
    unsigned char flags) {
    out[window.begin + threadIdx.x] = (float)window.scale + window.mode + flags;
}
"""
SHARED = """
// LIMITS dynamic_shared_bytes 0..49152
extern "C" __global__ void reversed(float* x) {
    extern __shared__ float tile[];
    __shared__ double total[16];
    tile[threadIdx.x] = x[threadIdx.x];
    total[threadIdx.x % 16] = 1.0;
    __syncthreads();
    x[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x] + (float)total[3];
}
"""
NEWER = """
#if __CUDA_ARCH__ >= 900
extern "C" __global__ void newer(float* x) { x[0] = 1.0f; }
#endif
"""

# What ptxas -v prints, for every entry that it finds in the text.
_PTXAS = '''#!{python}
import pathlib, re, sys
if "--version" in sys.argv:
    print("Cuda compilation tools, release {short}, V{version}")
    sys.exit(0)
if "--help" in sys.argv:
    print("Allowed values: " + ",".join(repr(arch) for arch in {knows!r}))
    sys.exit(0)
arch = next(a for a in sys.argv if a.startswith("-arch=")).removeprefix("-arch=")
text = pathlib.Path(sys.argv[-1]).read_text(encoding="utf-8")
if "bad_instruction" in text:
    sys.exit("ptxas module.ptx, line 9; error : Not a name of any known instruction")
for entry in re.findall(r"[.]entry (\\w+)", text):
    print(f"""ptxas info    : Compiling entry function '{{entry}}' for '{{arch}}'
ptxas info    : Function properties for helper
    99 bytes stack frame, 99 bytes spill stores, 99 bytes spill loads
ptxas info    : Function properties for {{entry}}
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used {{int(arch[3:])}} registers, used 1 barriers, 128 bytes smem, 360 bytes cmem[0]
""", file=sys.stderr)
'''
EVERY = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


def write_sources(folder: Path, **sources: str) -> list[Path]:
    """Write `name=text` as folder/name.cu, and the header of SAXPY beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "element.cuh").write_text(ELEMENT, encoding="utf-8")
    paths = [folder / f"{name}.cu" for name in sources]
    for path, text in zip(paths, sources.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def fake_ptxas(folder: Path, version: str = "12.9.86", knows: tuple[str, ...] = EVERY) -> Path:
    """Write a program that answers as ptxas does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"ptxas-{version}"
    path.write_text(
        _PTXAS.format(
            python=sys.executable, version=version, short=version.rpartition(".")[0], knows=knows
        ),
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path
