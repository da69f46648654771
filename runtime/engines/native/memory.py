"""Where a runner's KV is: a pool that transports know, and the tensor over the same bytes that kernels use."""

from __future__ import annotations

import torch
from torch import Tensor

from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service.kept import KeptPool
from dynamoc.runtime.kv.pool import HostPool


class KvMemory:
    """A pool of zeroed blocks, or one that is `kept`. `tensor` is flat, of `dtype`; it must not outlive `close`."""

    def __init__(
        self, layout: KvLayout, blocks: int, dtype: torch.dtype, device: torch.device, kept: KeptPool | None = None
    ) -> None:
        self.pool = kept.pool if kept is not None else _private(layout, blocks, device)
        self._kept = kept
        self.tensor = _over(self.pool).view(dtype)

    def close(self) -> None:
        """Give the memory back, once the device is done with it."""
        del self.tensor
        if isinstance(self.pool, DevicePool):
            torch.cuda.synchronize(self.pool.device)
        (self._kept or self.pool).close()


def _private(layout: KvLayout, blocks: int, device: torch.device) -> HostPool | DevicePool:
    return HostPool(layout, blocks) if device.type == "cpu" else DevicePool(layout, blocks, device.index or 0)


def _over(pool: HostPool | DevicePool) -> Tensor:
    """The pool's bytes; nothing is copied."""
    if isinstance(pool, HostPool):
        return torch.frombuffer(pool.data, dtype=torch.uint8)
    import cupy

    memory = cupy.cuda.UnownedMemory(pool.address, pool.data_bytes, pool, pool.device)
    tensor: Tensor = torch.from_dlpack(cupy.ndarray(pool.data_bytes, cupy.uint8, cupy.cuda.MemoryPointer(memory, 0)))
    return tensor
