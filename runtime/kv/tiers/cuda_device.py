"""G1 on a GPU: a kernel turns blocks into pages within device memory, the copy engine takes them over the link.

Nothing here returns before the device has let go of blocks and pages: whoever gets a buffer back may lend it again.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.cuda.batch import SourceOrder, copy_batch, why_no_batches
from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError, checked, on_device, runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.tiers.page import PageFormat
from dynamoc.runtime.kv.transfer.walk import UNIVERSAL, Placement, walk

LANES = 4
CTAS = 32
PIN_BYTES = 256 << 20
PINNERS = 8
SETTLED_S = 10.0
"""For what the device has done already."""
_PORTABLE = 1
_BY_ADDRESS = 4
_BLOCKING_UNTIMED = 3

Addresses = NDArray[np.uint64]


class CudaDevice:
    """The pool of a worker that computes on a GPU. `batch_bytes` must hold a page."""

    threads = 8
    """Host threads that take and check checksums while others copy."""

    def __init__(self, pool: DevicePool, format_: PageFormat, batch_bytes: int = 16 << 20) -> None:
        self.format = format_
        self.batch_bytes = max(batch_bytes, format_.page_bytes)
        self._pool = pool
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(_Lane(pool, self.batch_bytes // format_.page_bytes))

    def read(self, blocks: Sequence[int], pages: Sequence[memoryview]) -> None:
        """Blocks become pages there, and come down."""
        for part in self._parts(len(blocks)):
            with self._lane() as lane:
                lane.read(np.array(blocks[part], np.uint64), _addresses(pages[part]))

    def write(self, pages: Sequence[memoryview], blocks: Sequence[int]) -> None:
        """Pages go up, and become blocks there."""
        for part in self._parts(len(blocks)):
            with self._lane() as lane:
                lane.write(_addresses(pages[part]), np.array(blocks[part], np.uint64))

    def pin(self, memory: memoryview, row_bytes: int) -> Pinned:
        """Page-lock host memory that pages lie in, cut between rows."""
        return Pinned(memory, row_bytes, self._pool.device)

    def close(self) -> None:
        """Let go of the device. Nothing may be read or written any more."""
        for _ in range(LANES):
            self._lanes.get().close()

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        lane = self._lanes.get()
        try:
            yield lane
        finally:
            self._lanes.put(lane)

    def _parts(self, count: int) -> Iterator[slice]:
        step = self.batch_bytes // self.format.page_bytes
        return (slice(start, start + step) for start in range(0, count, step))


class Pinned:
    """Page-locked host memory. Large memory is locked in chunks by several threads; OSError."""

    def __init__(self, memory: memoryview, row_bytes: int, device: int) -> None:
        base, step = _address(memory), max(1, PIN_BYTES // row_bytes) * row_bytes
        self._device = device
        self._chunks = [(base + at, min(step, len(memory) - at)) for at in range(0, len(memory), step)]
        self._locked: list[int] = []
        try:
            with ThreadPoolExecutor(PINNERS, thread_name_prefix="kv-pin") as pinners:
                list(pinners.map(self._lock, self._chunks))
        except DeviceError as error:
            self.close()
            raise OSError(f"{len(memory)} bytes of host memory cannot be page-locked: {error}") from error

    def close(self) -> None:
        """Let the pages go. Nothing may be copying from or to them."""
        while self._locked:
            with checked("release page-locked memory"):
                runtime.hostUnregister(self._locked.pop())

    def _lock(self, chunk: tuple[int, int]) -> None:
        with on_device(self._device, "page-lock host memory"):
            runtime.hostRegister(*chunk, _PORTABLE)
        self._locked.append(chunk[0])


class _Lane:
    """One copy at a time of up to `pages` pages: a stream for kernels, one for the copy engine, memory between."""

    def __init__(self, pool: DevicePool, pages: int) -> None:
        blocks, stacked = Placement(pool.layout, pool.blocks), Placement(pool.layout, pages, UNIVERSAL)
        self._out, self._in = walk(blocks, stacked), walk(stacked, blocks)
        self._pool = pool
        self._page_bytes = pool.layout.block_bytes
        self._batches = not why_no_batches()
        self._kernels = Copier(pool.device, CTAS, slots=2, slot_runs=max(1, pages))
        with on_device(pool.device, "allocate staging memory"):
            self._memory: int = runtime.malloc(pages * self._page_bytes)
            self._engine: int = runtime.streamCreateWithFlags(1)
            self._moved: int = runtime.eventCreateWithFlags(_BLOCKING_UNTIMED)

    def read(self, blocks: Addresses, pages: Addresses) -> None:
        """From blocks to the addresses of pages; DeviceError."""
        stacked = self._stacked(blocks.size)
        gathered = self._kernels.copy_slices(self._out, self._blocks(blocks), stacked)
        with on_device(self._pool.device, "offload"):
            runtime.eventRecord(self._moved, self._kernels.stream)
            runtime.streamWaitEvent(self._engine, self._moved)
            self._move(pages, self._places(stacked), SourceOrder.STREAM)
            runtime.eventRecord(self._moved, self._engine)
        self._settle()
        gathered.wait(SETTLED_S)

    def write(self, pages: Addresses, blocks: Addresses) -> None:
        """From the addresses of pages to blocks; DeviceError."""
        stacked = self._stacked(blocks.size)
        with on_device(self._pool.device, "onboard"):
            self._move(self._places(stacked), pages, SourceOrder.ANY)
            runtime.eventRecord(self._moved, self._engine)
        self._kernels.after(self._moved)
        scattered = self._kernels.copy_slices(self._in, stacked, self._blocks(blocks))
        with on_device(self._pool.device, "onboard"):
            runtime.eventRecord(self._moved, self._kernels.stream)
        self._settle()
        scattered.wait(SETTLED_S)

    def close(self) -> None:
        """Give everything back."""
        self._kernels.close()
        with on_device(self._pool.device, "free staging memory"):
            runtime.eventDestroy(self._moved)
            runtime.streamDestroy(self._engine)
            runtime.free(self._memory)

    def _blocks(self, blocks: Addresses) -> Runs:
        return Runs(self._pool.address, self._page_bytes, blocks)

    def _stacked(self, count: int) -> Runs:
        return Runs(self._memory, self._page_bytes, np.arange(count, dtype=np.uint64))

    def _places(self, stacked: Runs) -> Addresses:
        return np.uint64(stacked.base) + np.uint64(stacked.stride) * stacked.indices

    def _move(self, to: Addresses, from_: Addresses, order: SourceOrder) -> None:
        if self._batches:
            sizes = np.full(to.size, self._page_bytes, np.uint64)
            copy_batch(self._pool.device, to, from_, sizes, self._engine, order)
            return
        for target, source in zip(to.tolist(), from_.tolist(), strict=True):
            runtime.memcpyAsync(target, source, self._page_bytes, _BY_ADDRESS, self._engine)

    def _settle(self) -> None:
        """Wait as long as it takes: until then nobody else may have blocks or pages.

        In the driver, asleep: a loop here would keep the interpreter from the threads that take checksums.
        """
        with on_device(self._pool.device, "wait for a copy"):
            runtime.eventSynchronize(self._moved)


def _addresses(pages: Sequence[memoryview]) -> Addresses:
    return np.array([_address(page) for page in pages], np.uint64)


def _address(memory: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
