"""G1 on a GPU: blocks and pages are copied by the way that was measured to be soonest done.

Nothing here returns before the device has let go of blocks and pages: whoever gets a buffer back may lend it again.
"""

from __future__ import annotations

import contextlib
import queue
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dynamoc.runtime.kv.cuda.batch import SourceOrder, copy_batch
from dynamoc.runtime.kv.cuda.copier import SHORT_DIGEST, Copier, Runs
from dynamoc.runtime.kv.cuda.device import NON_BLOCKING, DeviceError, checked, on_device, runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.tiers.page import Digests, PageFormat
from dynamoc.runtime.kv.tiers.pieces import Addresses, Pieces, address_of, down, up
from dynamoc.runtime.kv.tiers.ways import Ways
from dynamoc.runtime.kv.transfer.measured import Place, Way

LANES = 4
CTAS = 32
SLOT_RUNS = 2048
PIN_BYTES = 256 << 20
PINNERS = 8
SETTLED_S = 10.0
"""For what the device has done already."""
_PORTABLE_AND_MAPPED = 3
_BY_ADDRESS = 4
_BLOCKING_UNTIMED = 3


class CudaDevice:
    """The pool of a worker that computes on a GPU. `batch_bytes` must hold a page."""

    threads = 4
    """Host threads that take and check checksums while others copy; more of them wait for the interpreter, not work."""

    def __init__(self, pool: DevicePool, format_: PageFormat, ways: Ways, batch_bytes: int = 16 << 20) -> None:
        self.format = format_
        self.batch_bytes = max(batch_bytes, format_.page_bytes)
        self.takes_digests = digestible(format_)
        self.computes = False
        self._pool = pool
        self._ways = ways
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(_Lane(pool.device))

    def read(self, blocks: Sequence[int], pages: Sequence[memoryview]) -> None:
        """Blocks come down, each as it is."""
        self._copy(Place.DEVICE, Place.HOST, down(self.format, self._pool.address, blocks, pages))

    def lend(self, block: int) -> memoryview | None:
        """Never: files are not written from the memory of a GPU."""
        del block
        return None

    def write(self, pages: Sequence[memoryview], blocks: Sequence[int], layers: range | None = None) -> None:
        """Pages, or layers of them, go up, each as it is."""
        self._copy(Place.HOST, Place.DEVICE, up(self.format, self._pool.address, blocks, pages, layers))

    def digests(self, blocks: Sequence[int], layers: range | None = None) -> list[Digests]:
        """By a kernel, where the blocks lie."""
        layers = layers or range(self.format.layers)
        span = self.format.span(layers)
        group_bytes = min(span.size, self.format.group_layers * self.format.layer_bytes)
        indices = np.asarray(blocks, np.uint64)
        runs = Runs(self._pool.address + span.start, self._pool.layout.block_bytes, indices)
        with self._lane() as lane:
            found = lane.digests(runs, span.size, group_bytes)
        groups = -(-span.size // group_bytes)
        return [tuple(row) for row in found[: len(blocks) * groups].reshape(-1, groups).tolist()]

    def pin(self, memory: memoryview, row_bytes: int) -> Pinned:
        """Page-lock host memory that pages lie in, cut between rows."""
        return Pinned(memory, row_bytes, self._pool.device)

    def ways_taken(self) -> Counter[tuple[str, str]]:
        """Copies since the last call, by way and operation."""
        return self._ways.take()

    def close(self) -> None:
        """Let go of the device. Nothing may be read or written any more."""
        for _ in range(LANES):
            self._lanes.get().close()

    def _copy(self, source: Place, target: Place, pieces: Pieces) -> None:
        # Nobody writes pages that go up; blocks were written by what is earlier on other streams, and is over.
        order = SourceOrder.ANY if source is Place.HOST else SourceOrder.STREAM
        for part in pieces.parts(self.batch_bytes):
            way = self._ways.choose(source, target, part.size, part.to.size, beside_compute=self.computes)
            with self._lane() as lane:
                lane.copy(way, part, order)

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        lane = self._lanes.get()
        try:
            yield lane
        finally:
            self._lanes.put(lane)


class Pinned:
    """Page-locked host memory. Large memory is locked in chunks by several threads; OSError."""

    def __init__(self, memory: memoryview, row_bytes: int, device: int) -> None:
        base, step = address_of(memory), max(1, PIN_BYTES // row_bytes) * row_bytes
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
            runtime.hostRegister(*chunk, _PORTABLE_AND_MAPPED)
        self._locked.append(chunk[0])


class _Lane:
    """One copy at a time: a stream for the copy engine, one for kernels."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._kernels = Copier(device, CTAS, slots=2, slot_runs=SLOT_RUNS)
        with on_device(device, "make a stream"):
            self._engine: int = runtime.streamCreateWithFlags(NON_BLOCKING)
            self._moved: int = runtime.eventCreateWithFlags(_BLOCKING_UNTIMED)

    def copy(self, way: Way, pieces: Pieces, order: SourceOrder) -> None:
        """Returns when every byte is there, or when nothing is written any more; DeviceError, TimeoutError."""
        if way is Way.KERNEL:
            with self._settled(self._kernels.stream):
                copy = self._kernels.copy(_runs(pieces.from_), _runs(pieces.to), pieces.size)
            copy.wait(SETTLED_S)
            return
        with self._settled(self._engine):
            if way is Way.BATCH:
                sizes = np.full(pieces.to.size, pieces.size, np.uint64)
                copy_batch(self._device, pieces.to, pieces.from_, sizes, self._engine, order)
                return
            with on_device(self._device, "start copies"):
                for to, from_ in zip(pieces.to.tolist(), pieces.from_.tolist(), strict=True):
                    runtime.memcpyAsync(to, from_, pieces.size, _BY_ADDRESS, self._engine)

    def digests(self, runs: Runs, run_bytes: int, group_bytes: int) -> Addresses:
        """Run after run, group after group; DeviceError, TimeoutError."""
        with self._settled(self._kernels.stream):
            copy = self._kernels.digests(runs, run_bytes, group_bytes)
        copy.wait(SETTLED_S)
        assert copy.sums is not None
        return copy.sums.reshape(-1)

    def close(self) -> None:
        """Give everything back."""
        self._kernels.close()
        with on_device(self._device, "release a stream"):
            runtime.eventDestroy(self._moved)
            runtime.streamDestroy(self._engine)

    @contextlib.contextmanager
    def _settled(self, stream: int) -> Iterator[None]:
        """Wait, as long as it takes, for what was started: until then nobody else may have blocks or pages.

        In the driver, asleep: a loop here would keep the interpreter from the threads that take checksums.
        """
        try:
            yield
        finally:
            with on_device(self._device, "wait for a copy"):
                runtime.eventRecord(self._moved, stream)
                runtime.eventSynchronize(self._moved)


def digestible(format_: PageFormat) -> bool:
    """Whether the kernel takes checksums of such groups of layers; else they are taken of pages in host memory."""
    last = format_.layers - (format_.groups - 1) * format_.group_layers
    return format_.layer_bytes % 8 == 0 and last * format_.layer_bytes > SHORT_DIGEST


def _runs(addresses: Addresses) -> Runs:
    return Runs(0, 1, addresses)
