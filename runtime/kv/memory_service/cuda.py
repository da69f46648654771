"""GPU memory for the service: physical memory by the driver's virtual memory calls, shared as file descriptors.

The owner makes and exports it without mapping it, and so needs no context; a session reserves addresses and maps it,
readers without the right to write: a kernel that tries ends with an error instead of with other weights.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError, OutOfMemoryError

_missing: ImportError | None = None
try:
    from cuda.bindings import driver as _driver  # pyright: ignore[reportAttributeAccessIssue]
except ImportError as error:  # the package is there only where GPUs are
    _driver, _missing = None, error

driver: Any = _driver
"""The driver's calls, as cuda-bindings spells them."""


class MappedDevice:
    """An allocation at an address of this process; gone with the last view of it."""

    def __init__(self, memory: CudaMemory, handle: Any, size: int, *, writable: bool) -> None:
        self.size = size
        self.device: int | None = memory.device
        self.address = int(_checked("reserve addresses", driver.cuMemAddressReserve(size, 0, 0, 0)))
        access = driver.CUmemAccessDesc()
        access.location = memory.properties.location
        flags = driver.CUmemAccess_flags
        access.flags = flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE if writable else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
        try:
            _checked("map memory", driver.cuMemMap(self.address, size, 0, handle, 0))
        except MemoryServiceError:
            driver.cuMemAddressFree(self.address, size)
            raise
        self._unmap = weakref.finalize(self, _unmap, self.address, size)
        self._unmap.atexit = False  # the process's end takes all mappings with it
        _checked("make memory accessible", driver.cuMemSetAccess(self.address, size, [access], 1))

    def close(self) -> None:
        """Wait for the device, then unmap."""
        _checked("wait for the device", driver.cuCtxSynchronize())
        self._unmap()


class CudaMemory:
    """Memory of one GPU."""

    def __init__(self, device: int) -> None:
        if _missing is not None:
            raise MemoryServiceError(f"shared GPU memory needs cuda-bindings (`dynamoc[cuda13]`): {_missing}")
        _checked("initialise the driver", driver.cuInit(0))
        self.device = device
        self._kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        self.properties = driver.CUmemAllocationProp()
        self.properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self.properties.requestedHandleTypes = self._kind
        self.properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self.properties.location.id = device
        grain = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
        self.granularity: int = _checked(
            "ask for the granularity", driver.cuMemGetAllocationGranularity(self.properties, grain)
        )

    def create(self, size: int) -> int:
        """Physical memory, held by nothing but its descriptor."""
        handle = _checked(f"allocate {size} B on GPU {self.device}", driver.cuMemCreate(size, self.properties, 0))
        try:
            return int(_checked("export memory", driver.cuMemExportToShareableHandle(handle, self._kind, 0)))
        finally:
            driver.cuMemRelease(handle)

    def freeze(self, fd: int) -> int:
        """The same descriptor: the driver knows no other. That readers do not write is in how they map it."""
        return os.dup(fd)

    def map(self, fd: int, size: int, *, writable: bool) -> MappedDevice:
        """Import the descriptor and map what it names."""
        handle = _checked("import memory", driver.cuMemImportFromShareableHandle(fd, self._kind))
        try:
            return MappedDevice(self, handle, size, writable=writable)
        finally:
            driver.cuMemRelease(handle)


def _unmap(address: int, size: int) -> None:
    driver.cuMemUnmap(address, size)
    driver.cuMemAddressFree(address, size)


def _checked(what: str, result: Any) -> Any:
    """The value of a driver's call."""
    status, *values = result
    if status == driver.CUresult.CUDA_SUCCESS:
        return values[0] if values else None
    full = status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    raise (OutOfMemoryError if full else MemoryServiceError)(f"cannot {what}: {status.name}")
