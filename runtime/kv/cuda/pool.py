"""Pools whose blocks the kernels reach: device memory, a peer's device memory, page-locked host memory."""

from __future__ import annotations

import secrets

import numpy as np

from dynamoc.runtime.kv.cuda.device import checked, on_device, require_devices, runtime
from dynamoc.runtime.kv.layout import Heads, KvLayout, all_heads
from dynamoc.runtime.kv.pool import NONCE_BYTES, HostPool

GRAIN_BYTES = 2 << 20
"""Smaller requests share an allocation, and an IPC handle would name all of it."""
PROOF_BYTES = 64 << 10
"""Behind the blocks: the pool's nonce, then room in which peers try whether they reach it."""
_TO_DEVICE, _TO_HOST = 1, 2
_PORTABLE_AND_MAPPED = 3


class DevicePool:
    """`blocks` blocks of `layout` on one GPU, in plain device memory: what another process may map.

    `handle` is that of `size_of` bytes of another process, which the pool is in then; what is there stays.
    """

    def __init__(
        self, layout: KvLayout, blocks: int, device: int, heads: Heads | None = None, handle: bytes | None = None
    ) -> None:
        require_devices()
        self.layout = layout
        self.heads = heads or all_heads(layout)
        self.blocks = blocks
        self.device = device
        self.data_bytes = layout.block_bytes * blocks
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self._handle = handle
        with on_device(device, f"have {self.data_bytes} B on GPU {device}"):
            if handle is None:
                self.address: int = runtime.malloc(self.size_of(layout, blocks))
                runtime.memset(self.address, 0, self.data_bytes + PROOF_BYTES)
            else:
                self.address = runtime.ipcOpenMemHandle(handle)
            nonce = np.frombuffer(self.nonce, np.uint8)
            runtime.memcpy(self.address + self.data_bytes, nonce.ctypes.data, NONCE_BYTES, _TO_DEVICE)

    @staticmethod
    def size_of(layout: KvLayout, blocks: int) -> int:
        """Bytes of the memory of such a pool."""
        return -(-(layout.block_bytes * blocks + PROOF_BYTES) // GRAIN_BYTES) * GRAIN_BYTES

    def handle(self) -> bytes:
        """What a process of the same host needs to map the pool."""
        if self._handle is not None:
            return self._handle
        with on_device(self.device, "share the pool"):
            handle: bytes = runtime.ipcGetMemHandle(self.address)
        return handle

    def close(self) -> None:
        """Give the memory back. No peer may have it mapped: freeing memory under a mapping is undefined."""
        with on_device(self.device, "free the pool"):
            if self._handle is None:
                runtime.free(self.address)
            else:
                runtime.ipcCloseMemHandle(self.address)


class MappedPool:
    """The device pool of another process of this host, its blocks at addresses that `device` can reach."""

    def __init__(self, handle: bytes, device: int) -> None:
        require_devices()
        self.device = device
        with on_device(device, f"map a peer's pool on GPU {device}"):
            self.address: int = runtime.ipcOpenMemHandle(handle)

    def nonce(self, data_bytes: int) -> bytes:
        """That of the pool, read from behind its `data_bytes` bytes of blocks."""
        found = np.empty(NONCE_BYTES, np.uint8)
        with on_device(self.device, "read the nonce of a peer's pool"):
            runtime.memcpy(found.ctypes.data, self.address + data_bytes, NONCE_BYTES, _TO_HOST)
        return found.tobytes()

    def close(self) -> None:
        """Take the mapping back. Nothing may be writing through it."""
        with on_device(self.device, "unmap the peer's pool"):
            runtime.ipcCloseMemHandle(self.address)


class PinnedPool:
    """A host pool whose pages stay where they are, so that every GPU reaches them at the link's speed."""

    def __init__(self, pool: HostPool) -> None:
        require_devices()
        self.pool = pool
        self.address = int(np.frombuffer(pool.data, np.uint8).ctypes.data)
        with checked(f"page-lock {pool.data_bytes} B"):
            runtime.hostRegister(self.address, pool.data_bytes, _PORTABLE_AND_MAPPED)

    def close(self) -> None:
        """Let the pages go. Nothing may be copying from or to them."""
        with checked("release page-locked memory"):
            runtime.hostUnregister(self.address)
