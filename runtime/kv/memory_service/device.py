"""Memory of a GPU that outlives who computes in it: held by the owner in plain device memory, digested where it is.

Plain, because an IPC handle names no other: whoever has the handle, worker or peer, maps the memory by itself. It costs
the owner a context on the device, and the memory goes when the owner goes, whoever maps it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError, on_device, runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError, OutOfMemoryError

DIGEST_LIMIT_S = 60.0
_OUT_OF_MEMORY = 2
_DEFAULT_STREAM = 0


class HeldDevice:
    """Zeroed memory of a GPU."""

    fds: tuple[int, ...] = ()

    def __init__(self, size: int, device: int) -> None:
        """OutOfMemoryError, MemoryServiceError."""
        self._device = device
        try:
            with on_device(device, f"allocate {size} B on GPU {device}"):
                self._address: int = runtime.malloc(size)
                runtime.memset(self._address, 0, size)
                runtime.deviceSynchronize()
                self.handle: bytes = runtime.ipcGetMemHandle(self._address)
        except DeviceError as error:
            full = getattr(error.__cause__, "status", None) == _OUT_OF_MEMORY
            raise (OutOfMemoryError if full else MemoryServiceError)(str(error)) from error

    def close(self) -> None:
        """Free it, as the end of this process would: the driver keeps what others have mapped until they let go."""
        with on_device(self._device, "free a kept pool"):
            runtime.free(self._address)


class DeviceDigests:
    """The two sums of each block, by the kernel that verifies what peers send."""

    def __init__(self, pool: DevicePool) -> None:
        self._pool = pool
        self._copier = Copier(pool.device)

    def of(self, blocks: Sequence[int]) -> list[bytes]:
        """Once all is done that was given to the device for these blocks. DeviceError, TimeoutError."""
        pool = self._pool
        with on_device(pool.device, "wait for what is computed"):
            runtime.streamSynchronize(_DEFAULT_STREAM)
        runs = Runs(pool.address, pool.layout.block_bytes, np.array(blocks, np.uint64))
        summed = self._copier.sum(runs, pool.layout.block_bytes, deadline_s=DIGEST_LIMIT_S)
        summed.wait(DIGEST_LIMIT_S)
        assert summed.sums is not None
        return [row.tobytes() for row in summed.sums.astype("<u8")]

    def close(self) -> None:
        """Let go of the kernels' memory."""
        self._copier.close()
