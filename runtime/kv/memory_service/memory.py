"""The seam between the service and the memory it deals in: what an owner makes and what a session maps."""

from __future__ import annotations

import importlib
from typing import Protocol


class MemoryServiceError(RuntimeError):
    """Memory that cannot be made, shared or mapped; the message says why."""


class OutOfMemoryError(MemoryServiceError):
    """There is not enough of it now; an ended process may still be giving back what it had."""


class Mapped(Protocol):
    """An allocation in this process's address space, as long as this object or a view of it lives."""

    @property
    def address(self) -> int:
        """Where it begins."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def device(self) -> int | None:
        """The GPU whose memory it is; None for host memory."""
        ...

    def close(self) -> None:
        """Wait for the device, then take it out of the address space. No view may be used any more.

        MemoryServiceError if it can be seen that one is left.
        """
        ...


class Memory(Protocol):
    """One kind of memory. An allocation is a file descriptor: it lives while any process has that, or a mapping."""

    granularity: int
    """Sizes are multiples of it."""

    def create(self, size: int) -> int:
        """A zeroed or undefined allocation; OutOfMemoryError, MemoryServiceError."""
        ...

    def freeze(self, fd: int) -> int:
        """A descriptor for readers; where the kernel can, nothing is writable from now on. MemoryServiceError."""
        ...

    def map(self, fd: int, size: int, *, writable: bool) -> Mapped:
        """The allocation here; the descriptor is not needed any more. MemoryServiceError."""
        ...


def memory_of(device: int | None) -> Memory:
    """Memory of a GPU of this process, or of the host."""
    if device is None:
        made: Memory = importlib.import_module("dynamoc.runtime.kv.memory_service.host").HostMemory()
    else:
        made = importlib.import_module("dynamoc.runtime.kv.memory_service.cuda").CudaMemory(device)
    return made
