"""G1, the pool an engine computes in: what transports need of any, and that of a CPU worker.

The latter is one anonymous shared-memory file that peers of the same user may map.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from typing import Protocol

import numpy as np

from dynamoc.runtime.kv.layout import Heads, KvLayout, all_heads
from dynamoc.runtime.kv.memory import prefer_huge_pages

PAGE_BYTES = 4096
"""The first page holds the region's nonce; blocks start after it."""
NONCE_BYTES = 16


class Pool(Protocol):
    """`blocks` blocks of `layout` from `address` on, without gaps."""

    @property
    def layout(self) -> KvLayout:
        """Shape of a block."""
        ...

    @property
    def heads(self) -> Heads:
        """Which of the model's heads the layout's are."""
        ...

    @property
    def blocks(self) -> int:
        """How many there are."""
        ...

    @property
    def address(self) -> int:
        """Where block 0 begins, in the address space of `device`."""
        ...

    @property
    def device(self) -> int | None:
        """The GPU of this process whose memory it is; None for host memory."""
        ...

    @property
    def nonce(self) -> bytes:
        """Tells this pool from every other one, also from the next at the same place."""
        ...

    def close(self) -> None:
        """Give the memory back. Nothing may be reading or writing it."""
        ...


class HostPool:
    """`blocks` blocks of `layout` in a memfd. The memory is gone with its last user, however that one ended.

    `fd` is a memfd of `size_of` bytes, sealed to that, which is the pool's from now on; one is made if there is none.
    """

    def __init__(
        self,
        layout: KvLayout,
        blocks: int,
        name: str = "dynamoc-kv",
        heads: Heads | None = None,
        fd: int | None = None,
    ) -> None:
        self.layout = layout
        self.heads = heads or all_heads(layout)
        self.blocks = blocks
        self.data_bytes = layout.block_bytes * blocks
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self.fd = sealed_memfd(name, self.size_of(layout, blocks)) if fd is None else fd
        self._map = mmap.mmap(self.fd, PAGE_BYTES + self.data_bytes)
        prefer_huge_pages(self._map)
        self._map[: len(self.nonce)] = self.nonce
        self.data = memoryview(self._map)[PAGE_BYTES:]
        """The blocks, as writable bytes."""
        self.address = int(np.frombuffer(self.data, np.uint8).ctypes.data) if self.data_bytes else 0
        self.device: int | None = None

    @staticmethod
    def size_of(layout: KvLayout, blocks: int) -> int:
        """Bytes of the memfd of such a pool."""
        return PAGE_BYTES + layout.block_bytes * blocks

    def block(self, index: int) -> memoryview:
        """The bytes of one block."""
        size = self.layout.block_bytes
        return self.data[index * size : (index + 1) * size]

    def close(self) -> None:
        """Give the memory back. Tensors over `data` must be gone; if one is left, the mapping stays with it."""
        try:
            self.data.release()
            self._map.close()
        except BufferError:
            pass
        os.close(self.fd)


def sealed_memfd(name: str, size: int) -> int:
    """A new memfd that keeps its size; what nobody has touched takes no memory."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    # A peer that maps the file would be killed by SIGBUS if it could ever shrink.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd
