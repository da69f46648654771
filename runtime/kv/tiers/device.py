"""G1 as the tiers see it: blocks come out as pages and go in as pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.pool import HostPool, Pool
from dynamoc.runtime.kv.tiers.cuda_device import CudaDevice
from dynamoc.runtime.kv.tiers.page import PageFormat

Bytes = npt.NDArray[np.uint8]


class Pinned(Protocol):
    """Host memory made ready for the device."""

    def close(self) -> None:
        """It will not be used for copies any more."""
        ...


class Device(Protocol):
    """The pool of one rank. Copies block until the bytes have arrived, and may be asked for by several threads.

    Nobody else writes the blocks that are read, or touches those that are written.
    """

    format: PageFormat
    batch_bytes: int
    """Pages are best copied together up to this size."""
    threads: int
    """So many copies at once fill the way to host memory."""

    def read(self, blocks: Sequence[int], pages: Sequence[memoryview]) -> None:
        """Copy blocks out, each to a page."""
        ...

    def write(self, pages: Sequence[memoryview], blocks: Sequence[int]) -> None:
        """Copy pages in, each to a block."""
        ...

    def pin(self, memory: memoryview, row_bytes: int) -> Pinned:
        """Make host memory ready in which pages will lie, each within a row. OSError."""
        ...

    def close(self) -> None:
        """Let go of the pool. Nothing may be read or written any more."""
        ...


def device_of(pool: Pool, format_: PageFormat) -> Device:
    """The pool as the tiers use it; ValueError if nobody here can."""
    if isinstance(pool, HostPool):
        return HostDevice(pool, format_)
    if isinstance(pool, DevicePool):
        return CudaDevice(pool, format_)
    raise ValueError(f"KV tiers are not available below a {type(pool).__name__}")


class HostDevice:
    """The pool of a CPU worker."""

    batch_bytes = 4 << 20
    threads = 2

    def __init__(self, pool: HostPool, format_: PageFormat) -> None:
        layout = pool.layout
        self.format = format_
        self._fragments = (
            layout.heads,
            layout.layers * layout.parts,
            format_.head_bytes // layout.layers // layout.parts,
        )
        """Of a page: heads, parts of layers, bytes."""
        heads, parts, run = self._fragments
        self._blocks: Bytes | None = np.frombuffer(pool.data, np.uint8).reshape(pool.blocks, parts, heads, run)

    def read(self, blocks: Sequence[int], pages: Sequence[memoryview]) -> None:
        """Gather the heads of each block."""
        for block, page in zip(blocks, pages, strict=True):
            np.copyto(self._page(page), self._block(block))

    def write(self, pages: Sequence[memoryview], blocks: Sequence[int]) -> None:
        """Scatter the heads of each page."""
        for page, block in zip(pages, blocks, strict=True):
            np.copyto(self._block(block), self._page(page))

    def pin(self, memory: memoryview, row_bytes: int) -> Pinned:
        """Nothing to do: processors reach all memory."""
        del memory, row_bytes
        return AsItIs()

    def close(self) -> None:
        """Let go of the pool. Nothing may be read or written any more."""
        self._blocks = None

    def _page(self, page: memoryview) -> Bytes:
        return np.frombuffer(page, np.uint8).reshape(self._fragments)

    def _block(self, block: int) -> Bytes:
        assert self._blocks is not None, "closed"
        view: Bytes = self._blocks[block].swapaxes(0, 1)
        return view


class AsItIs:
    """Host memory to which nothing was done."""

    def close(self) -> None:
        """Nothing to undo."""
