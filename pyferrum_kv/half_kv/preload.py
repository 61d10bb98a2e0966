"""What a first launch would load or reserve, ahead of a capture or of the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyferrum_kv.half_kv.entries import APPEND, ENTRIES, OPERATION
from pyferrum_kv.int8_kv.launch_decode import available_entries
from pyferrum_kv.int8_kv.workspace import Workspace
from pyferrum_kv.loader import PtxLoader

if TYPE_CHECKING:
    from pyferrum_kv.driver import CudaContext, CudaStream


def preload(ctx: CudaContext, stream: CudaStream | None = None) -> None:
    """Load the append and decode entries, and reserve the workspace of `stream`.

    stream: the default stream unless given
    """
    PtxLoader.of(ctx).preload(*APPEND.values(), *available_entries(ctx, ENTRIES))
    Workspace.of(ctx.default_stream() if stream is None else stream, OPERATION)
