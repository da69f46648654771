"""Host memory and numpy where a GPU and its kernels would be, so that what moves device memory runs without one."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dynamoc.runtime.kv.cuda.copier import Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError
from dynamoc.runtime.kv.transfer import slices
from dynamoc.runtime.kv.transfer.checksums import Table
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.rows import Rows
from dynamoc.runtime.kv.transfer.walk import Walk
from dynamoc.runtime.transports.nixl_agent import Agent, Place
from dynamoc.runtime.transports.nixl_device import DeviceMemory, DeviceStage
from dynamoc.runtime.transports.nixl_staging import Slots

Bytes = np.ndarray


class StandIn(DeviceMemory):
    """Host memory that is treated as a GPU's; `pace` is called with every block that is packed."""

    def __init__(self) -> None:
        self.device = None
        self.pace: Callable[[Rows], object] = len
        self.fails = False

    def use(self) -> None:
        """Every thread does."""

    def stage(self, agent: Agent, slots: Slots) -> DeviceStage:
        memory = np.frombuffer(mmap.mmap(-1, slots.count * slots.size), np.uint8)
        made = DeviceStage(agent, Place(int(memory.ctypes.data), None), slots, self.copier())
        made.held = memory  # type: ignore[attr-defined]
        return made

    def copier(self) -> Copier:
        return NumpyCopier(self)


class NumpyCopier(Copier):
    """A stream: what was started is done in order, in a thread of its own."""

    def __init__(self, memory: StandIn) -> None:
        self._memory = memory
        self._stream = ThreadPoolExecutor(1, thread_name_prefix="stand-in")

    def copy(
        self, source: Runs, destination: Runs, run_bytes: int, *, sums: bool = False, deadline_s: float = 10
    ) -> Copy:
        def work(into: Table | None) -> None:
            from_, to = (_bytes(side, run_bytes) for side in (source, destination))
            rows, target = _rows(from_, source, run_bytes), _rows(to, destination, run_bytes)
            for start, end in zip(source.indices.tolist(), destination.indices.tolist(), strict=True):
                if sums:
                    self._memory.pace(rows[start])
                target[end] = rows[start]
            if into is not None:
                into[:] = _sums(rows[source.indices.astype(np.int64)])

        return self._start(work, len(source.indices), sums=sums)

    def copy_slices(
        self, walk: Walk, source: Runs, destination: Runs, *, sums: bool = False, deadline_s: float = 10
    ) -> Copy:
        assert (walk.source_stride, walk.target_stride) == (source.stride, destination.stride)

        def work(into: Table | None) -> None:
            from_, to = (_bytes(side, side.stride) for side in (source, destination))
            slices.copy_slices(walk, from_, _indices(source), to, _indices(destination))
            if into is not None:
                into[:] = slices.sum_slices(walk, from_, _indices(source))

        return self._start(work, len(source.indices), sums=sums)

    def sum(self, runs: Runs, run_bytes: int, *, deadline_s: float = 10) -> Copy:
        def work(into: Table | None) -> None:
            assert into is not None
            into[:] = _sums(_rows(_bytes(runs, run_bytes), runs, run_bytes)[_indices(runs)])

        return self._start(work, len(runs.indices), sums=True)

    def sum_slices(self, walk: Walk, blocks: Runs, *, deadline_s: float = 10) -> Copy:
        def work(into: Table | None) -> None:
            assert into is not None
            into[:] = slices.sum_slices(walk, _bytes(blocks, blocks.stride), _indices(blocks))

        return self._start(work, len(blocks.indices), sums=True)

    def close(self, deadline_s: float = 10) -> None:
        self._stream.shutdown()

    def _start(self, work: Callable[[Table | None], None], count: int, *, sums: bool) -> Copy:
        if self._memory.fails:
            raise DeviceError("the device failed")
        into = np.empty((count, 2), np.uint64) if sums else None
        return _Started(into, self._stream.submit(work, into))


class _Started(Copy):
    def __init__(self, sums: Table | None, future: Future[None]) -> None:
        super().__init__(sums)
        self._future = future

    def is_done(self) -> bool:
        if not self._future.done():
            return False
        self._future.result()
        return True


def _indices(runs: Runs) -> Indices:
    return runs.indices.astype(np.int64)


def _bytes(runs: Runs, run_bytes: int) -> Bytes:
    """From the base to behind the last run."""
    size = int(runs.indices.max()) * runs.stride + run_bytes if len(runs.indices) else 0
    return np.frombuffer((ctypes.c_uint8 * size).from_address(runs.base), np.uint8)


def _rows(data: Bytes, runs: Runs, run_bytes: int) -> Bytes:
    count = int(runs.indices.max()) + 1 if len(runs.indices) else 0
    return as_strided(data, (count, run_bytes), (runs.stride, 1))


def _sums(rows: Bytes) -> Table:
    """As `sums_of` says, of all rows at once."""
    padded = np.zeros((len(rows), -(-rows.shape[1] // 4) * 4), np.uint8)
    padded[:, : rows.shape[1]] = rows
    words = padded.view("<u4").astype(np.uint64)
    weights = np.arange(1, words.shape[1] + 1, dtype=np.uint64)
    return np.stack([words.sum(axis=1), (words * weights).sum(axis=1)], axis=1)
