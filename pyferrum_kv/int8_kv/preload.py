"""What a first launch would load or reserve, ahead of a capture or of the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyferrum_kv.int8_kv.append import APPEND_ENTRIES
from pyferrum_kv.int8_kv.append_rotary import ROTARY_ENTRIES
from pyferrum_kv.int8_kv.blocks import BLOCKS_ENTRY
from pyferrum_kv.int8_kv.launch_decode import available_entries
from pyferrum_kv.int8_kv.merge import MERGE_ENTRIES
from pyferrum_kv.int8_kv.workspace import Workspace
from pyferrum_kv.loader import PtxLoader

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext, CudaStream


_BY_DTYPE = (APPEND_ENTRIES, ROTARY_ENTRIES, MERGE_ENTRIES)


def preload(ctx: CudaContext, stream: CudaStream | None = None) -> None:
    """Load the entries of every operation, and reserve the workspace of `stream`.

    stream: the default stream unless given
    """
    entries = [name for names in _BY_DTYPE for name in names.values()]
    PtxLoader.of(ctx).preload(*entries, BLOCKS_ENTRY, *available_entries(ctx))
    Workspace.of(ctx.default_stream() if stream is None else stream)
