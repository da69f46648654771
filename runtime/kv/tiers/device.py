"""G1 as the tiers see it: blocks come out as pages and go in as pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynamoc.runtime.kv.cuda.batch import why_no_batches
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.pool import HostPool, Pool
from dynamoc.runtime.kv.tiers.cuda_device import CudaDevice
from dynamoc.runtime.kv.tiers.page import ALIGN, Digests, PageFormat, digests_of
from dynamoc.runtime.kv.tiers.ways import Ways
from dynamoc.runtime.kv.transfer.measured import Measured, Way

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
    takes_digests: bool
    """Whether checksums are taken on the device, by `digests`, or of the pages by whoever has those."""
    computes: bool
    """Whether the engine computes: copies then leave it what they can. Set by the engine."""

    def read(self, blocks: Sequence[int], pages: Sequence[memoryview]) -> None:
        """Copy blocks out, each to a page."""
        ...

    def lend(self, block: int) -> memoryview | None:
        """A block as the page it is, where files can be written from it without a copy; None: it has to be read."""
        ...

    def write(self, pages: Sequence[memoryview], blocks: Sequence[int], layers: range | None = None) -> None:
        """Copy pages in, each to a block; of these layers only, which are all that is in `pages`, if not None."""
        ...

    def digests(self, blocks: Sequence[int], layers: range | None = None) -> list[Digests]:
        """The checksums of each block as a page, or of these layers of it, which are whole groups."""
        ...

    def pin(self, memory: memoryview, row_bytes: int) -> Pinned:
        """Make host memory ready in which pages will lie, each within a row. OSError."""
        ...

    def ways_taken(self) -> Counter[tuple[str, str]]:
        """Copies since the last call, by way and operation, where there is more than one way."""
        ...

    def close(self) -> None:
        """Let go of the pool. Nothing may be read or written any more."""
        ...


def device_of(pool: Pool, format_: PageFormat, measured: Callable[[], Measured]) -> Device:
    """The pool as the tiers use it; ValueError if nobody here can. `measured`: what the links of a GPU deliver."""
    if isinstance(pool, HostPool):
        return HostDevice(pool, format_)
    if isinstance(pool, DevicePool):
        # By copy engines, whatever is measured or not: they leave what computes alone.
        unmeasured = Way.MEMCPY if why_no_batches() else Way.BATCH
        return CudaDevice(pool, format_, Ways(measured(), unmeasured))
    raise ValueError(f"KV tiers are not available below a {type(pool).__name__}")


class HostDevice:
    """The pool of a CPU worker."""

    batch_bytes = 4 << 20
    threads = 2
    takes_digests = False

    def __init__(self, pool: HostPool, format_: PageFormat) -> None:
        self.format = format_
        self.computes = False
        self._blocks: Bytes | None = np.frombuffer(pool.data, np.uint8).reshape(pool.blocks, -1)
        self._lends = pool.address % ALIGN == format_.page_bytes % ALIGN == 0

    def read(self, blocks: Sequence[int], pages: Sequence[memoryview]) -> None:
        """Each block as it is."""
        for block, page in zip(blocks, pages, strict=True):
            np.copyto(np.frombuffer(page, np.uint8), self._block(block))

    def lend(self, block: int) -> memoryview | None:
        """The block itself, if O_DIRECT takes memory that lies as it does."""
        return self._block(block).data if self._lends else None

    def write(self, pages: Sequence[memoryview], blocks: Sequence[int], layers: range | None = None) -> None:
        """Each block, or its layers, as they are."""
        span = self.format.span(layers or range(self.format.layers))
        for page, block in zip(pages, blocks, strict=True):
            np.copyto(self._block(block)[span.start : span.end], np.frombuffer(page, np.uint8))

    def digests(self, blocks: Sequence[int], layers: range | None = None) -> list[Digests]:
        """By processors."""
        layers = layers or range(self.format.layers)
        return [digests_of(self.format, layers, self._block(block).data) for block in blocks]

    def pin(self, memory: memoryview, row_bytes: int) -> Pinned:
        """Nothing to do: processors reach all memory."""
        del memory, row_bytes
        return AsItIs()

    def ways_taken(self) -> Counter[tuple[str, str]]:
        """There is one way."""
        return Counter()

    def close(self) -> None:
        """Let go of the pool. Nothing may be read or written any more."""
        self._blocks = None

    def _block(self, block: int) -> Bytes:
        assert self._blocks is not None, "closed"
        view: Bytes = self._blocks[block]
        return view


class AsItIs:
    """Host memory to which nothing was done."""

    def close(self) -> None:
        """Nothing to undo."""
