"""Run code in a process of its own: for what a process survives only once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_START = """
import os, sys
sys.path[:0] = {path!r}
from pyferrum_kv import *
DRIVER = {driver!r}
ctx = CudaContext.new(0, driver=DRIVER)
stream = ctx.new_stream()
x = stream.alloc_zeros(16, "f4")
stream.synchronize()
"""

USE_AFTER_FORK = """
from helpers.kernels import AXPY
function = ctx.load_module(AXPY).function("axpy")
launch = function.prepare(LaunchConfig(1, 32), x, x, 16, 1.0, stream=stream)
child = os.fork()
if child == 0:
    said = []
    anew = lambda: CudaContext.new(0, driver=DRIVER)
    for use in (ctx.synchronize, lambda: stream.alloc(1, "f4"), launch.launch, anew):
        try:
            use()
        except ForkedProcessError as error:
            said.append(str(error))
    x.close(); stream.close(); ctx.close()
    del x, stream, ctx, launch
    told = [text for text in said if "before this process was forked" in text]
    os._exit(0 if len(told) == 4 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
stream.synchronize()
sys.exit(status)
"""


def run_child(driver: str, body: str) -> tuple[int, str]:
    """(exit status, output) of `body`, which finds ctx, stream and a slice x of 16 f4."""
    path = [str(Path(__file__).parents[1]), *sys.path]
    code = _START.format(path=path, driver=driver) + body
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
