"""A conformance suite for CUDA drivers: the real one and the virtual one must pass the same checks.

    from cuda.bindings import driver
    check_driver(driver)            # the GPU's
    check_driver(VirtualDriver())   # the CPU's

It is written against the names of `cuda.bindings.driver` alone, so it also judges any other object
that has them: a recorder, a fake, a driver with faults injected.
"""

from pyferrum_kv.testing.session import Failure, NotConforming, check_driver, checks

__all__ = ["Failure", "NotConforming", "check_driver", "checks"]
