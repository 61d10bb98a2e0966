"""python -m pyferrum_kv.virtual PROGRAM [ARGUMENT...]: run a program on a virtual device.

The program's `cuda.bindings.driver` is a VirtualDriver. What its sanitiser reports is printed at
the end, and then the exit status is 1.
"""

from __future__ import annotations

import runpy
import sys

from pyferrum_kv.virtual.device import VirtualDriver
from pyferrum_kv.virtual.stand_in import stand_in


def main(arguments: list[str]) -> int:
    """Run `arguments[0]` as a script with the rest as its arguments."""
    if not arguments:
        sys.stderr.write("usage: python -m pyferrum_kv.virtual PROGRAM [ARGUMENT...]\n")
        return 2
    driver, before = VirtualDriver(report_leaks=True), sys.argv
    sys.argv = arguments
    try:
        with stand_in(driver):
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.argv = before
        driver.finish()
        for report in driver.reports:
            sys.stderr.write(f"{report}\n")
    return 1 if driver.reports else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
