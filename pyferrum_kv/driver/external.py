"""ExternalMemory: device memory that another API (Vulkan, a second process) exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pyferrum_kv.driver.lifetime import Owned
from pyferrum_kv.driver.memory import Memory, checked_size
from pyferrum_kv.errors import ArgumentError, ClosedError

if TYPE_CHECKING:
    from pyferrum_kv.driver.context import CudaContext


class MappedBuffer(Memory):
    """A mapped range of external memory. Owns the mapping, and keeps the import alive."""

    __slots__ = ()


class ExternalMemory:
    """Memory imported by file descriptor, `size` bytes. Owns the import."""

    def __init__(self, context: CudaContext, fd: int, size: int) -> None:
        raw, call = context.api.raw, context.api.call
        desc = raw.CUDA_EXTERNAL_MEMORY_HANDLE_DESC()
        desc.type = raw.CUexternalMemoryHandleType.CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD
        desc.handle.fd, desc.size = fd, size
        handle = context.call("cuImportExternalMemory", desc, on=f"fd {fd}, {size} bytes")
        self.context, self.size = context, size
        self._what = what = f"external memory {int(handle):#x}"
        self._owned = Owned(
            context.ledger, handle, what, lambda: call("cuDestroyExternalMemory", handle, on=what)
        )

    def map(
        self, dtype: npt.DTypeLike = "uint8", *, offset: int = 0, len: int | None = None
    ) -> Any:
        """Map `len` elements from byte `offset`, by default all: a MappedBuffer."""
        if self._owned.is_closed:
            raise ClosedError(f"map: {self._what} is closed")
        _, element = checked_size("map", 0, dtype)
        count = (self.size - offset) // element.itemsize if len is None else len
        if offset < 0 or count < 0 or offset + count * element.itemsize > self.size:
            raise ArgumentError(
                f"map: {count} x {element} from byte {offset}; wanted them inside {self.size} bytes"
            )
        context, raw, call = self.context, self.context.api.raw, self.context.api.call
        desc = raw.CUDA_EXTERNAL_MEMORY_BUFFER_DESC()
        desc.offset, desc.size = offset, count * element.itemsize
        source = self._owned
        on = f"{self._what}, offset {offset}, {desc.size} bytes"
        ptr = context.call("cuExternalMemoryGetMappedBuffer", source.value, desc, on=on)

        def free(_imported: Owned = source) -> None:  # the import must outlive its mappings
            call("cuMemFree", ptr, on=on)

        owned = Owned(context.ledger, ptr, on, free)
        return MappedBuffer(context, None, int(ptr), count, element, owned)

    def close(self) -> None:
        """Give the import back; mappings keep their own hold of the memory."""
        self.context.give_back(self._owned)

    def __enter__(self) -> ExternalMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
