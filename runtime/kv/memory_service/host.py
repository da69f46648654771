"""Host memory for the service: a sealed memfd for each allocation. Readers get a descriptor that cannot write."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

import numpy as np

from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError, OutOfMemoryError


class MappedHost:
    """`data` is the mapping: whoever looks into it keeps it there."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.data = mmap.mmap(fd, size, prot=protection)
        self.size = size
        self.device: int | None = None
        self.address = int(np.frombuffer(self.data, np.uint8).ctypes.data)

    def close(self) -> None:
        """Unmap; MemoryServiceError if something still looks into it."""
        try:
            self.data.close()
        except BufferError as error:
            raise MemoryServiceError("a tensor over shared memory is still in use") from error


class HostMemory:
    """Memory of this host."""

    granularity = mmap.PAGESIZE

    def create(self, size: int) -> int:
        """Zeroed, of a size that nobody can change."""
        fd = os.memfd_create("dynamoc-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(fd, 0, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except OSError as error:
            os.close(fd)
            kind = OutOfMemoryError if error.errno in (errno.ENOMEM, errno.ENOSPC) else MemoryServiceError
            raise kind(f"cannot allocate {size} B: {error}") from error
        return fd

    def freeze(self, fd: int) -> int:
        """Seal the contents: from now on nobody can write, nor map it to write."""
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MemoryServiceError(f"the memory is still mapped to write to it: {error}") from error

    def map(self, fd: int, size: int, *, writable: bool) -> MappedHost:
        """Map it; MemoryServiceError if it is smaller than that, or may not be written."""
        try:
            if (found := os.fstat(fd).st_size) != size:
                raise MemoryServiceError(f"an allocation of {found} B was announced with {size} B")
            return MappedHost(fd, size, writable=writable)
        except (OSError, ValueError) as error:
            raise MemoryServiceError(f"cannot map {size} B: {error}") from error
