"""From `.cu` files to a bundle: compile, read the declarations, hold both together, write.

Build time only: needs NVRTC, and ptxas for the register counts. Read in this order: macros,
declaration, sources, compilation, signatures, ptxas, reuse, builder, check.
"""

from pyferrum_kv.build.builder import Built, build, write
from pyferrum_kv.build.check import assemble, check, check_sources
from pyferrum_kv.build.ptxas import Ptxas

__all__ = ["Built", "Ptxas", "assemble", "build", "check", "check_sources", "write"]
