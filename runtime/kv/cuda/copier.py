"""Copies runs of bytes between any addresses a device reaches, by kernels that walk tables of indices.

A run is a block, or a slice of one: then a walk says where its fragments are on both sides.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.cuda.device import DeviceError, on_device, require_devices, runtime
from dynamoc.runtime.kv.cuda.staging import ROW_BYTES, Batch, Ring, Table
from dynamoc.runtime.kv.transfer.walk import Step, Walk

SOURCES = tuple(Path(__file__).with_name(name) for name in ("scatter_gather.cu", "slices.cu", "digests.cu"))
KERNELS = (
    *("copy_runs", "copy_and_sum_runs", "sum_runs"),
    *("copy_slices", "copy_and_sum_slices", "sum_slices"),
    "digest_groups",
)
STEPS = 4
"""Loops of a walk, in the kernel."""
CHUNK_BYTES = 4096
"""What a warp takes at a time; CHUNK in the kernel."""
THREADS = 512
DIGEST_THREADS, DIGEST_LANES = 256, 8
"""Of `digest_groups`, and how many of them share a digest."""
CTAS = 264
SLOTS = 8
SLOT_RUNS = 16384
SHORT_DIGEST = 240
"""Bytes up to which xxh3 is another algorithm."""
_DEVICE_TO_HOST = 2


class Runs(NamedTuple):
    """Where runs begin: at `base + stride * indices[i]`."""

    base: int
    stride: int
    indices: NDArray[np.uint64]

    def part(self, which: slice | NDArray[np.int64]) -> Runs:
        """Some of them."""
        return self._replace(indices=self.indices[which])

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """Where each begins."""
        return self.indices * np.uint64(self.stride) + np.uint64(self.base)


class Settles(Protocol):
    """Part of a copy."""

    def settle(self, deadline_s: float) -> None:
        """Wait for it; TimeoutError, DeviceError. To ask again costs nothing."""
        ...


class Copy:
    """Work under way on the device. `sums` (rows of plain and weighted, one a run) are there once it is done."""

    def __init__(self, sums: Table | None) -> None:
        self.sums = sums
        self.batches: list[Settles] = []

    def wait(self, deadline_s: float) -> None:
        """Until every byte is where it belongs; TimeoutError if it takes longer, DeviceError if the device failed.

        After a TimeoutError the device may still be writing.
        """
        ends_at = time.monotonic() + deadline_s
        for batch in self.batches:
            batch.settle(max(0.0, ends_at - time.monotonic()))

    def is_done(self) -> bool:
        """Whether `wait` would return at once; DeviceError if the device failed."""
        try:
            self.wait(0)
        except TimeoutError:
            return False
        return True


class Copier:
    """Owns a stream and a staging ring on one device. Used from one thread at a time.

    `ctas` is the share of the device it may take: an idle link wants many, a busy device few.
    """

    def __init__(self, device: int, ctas: int = CTAS, slots: int = SLOTS, slot_runs: int = SLOT_RUNS) -> None:
        if device >= (seen := require_devices()):
            raise DeviceError(f"there is no GPU {device}: this process sees {seen}")
        self.device = device
        self.ctas = ctas
        self._ring = Ring(device, slots, slot_runs)
        with on_device(device, "prepare the copy kernels"):
            self._kernels = _compile()
            self._launch_on, self.stream = _stream()

    def copy(
        self,
        source: Runs,
        destination: Runs,
        run_bytes: int,
        *,
        sums: bool = False,
        into: Table | None = None,
        deadline_s: float = 10,
    ) -> Copy:
        """Start to copy run i of `source` onto run i of `destination`; waits only for staging slots.

        The sums go into rows of `into`, [runs, 2], if it is given.
        """
        words, kernel = _whole(run_bytes), "copy_and_sum_runs" if sums else "copy_runs"
        return self._start(kernel, source, destination, run_bytes, words, deadline_s, into)

    def sum(self, runs: Runs, run_bytes: int, *, into: Table | None = None, deadline_s: float = 10) -> Copy:
        """Start to sum the runs where they are."""
        return self._start("sum_runs", runs, runs, run_bytes, _whole(run_bytes), deadline_s, into)

    def copy_slices(
        self,
        walk: Walk,
        source: Runs,
        destination: Runs,
        *,
        sums: bool = False,
        into: Table | None = None,
        deadline_s: float = 10,
    ) -> Copy:
        """Start to copy the slice of block i of `source` onto that of block i of `destination`; runs are blocks."""
        kernel = "copy_and_sum_slices" if sums else "copy_slices"
        from_, to = _moved(source, walk.source), _moved(destination, walk.target)
        return self._start(kernel, from_, to, walk.size, _words(walk), deadline_s, into)

    def sum_slices(self, walk: Walk, blocks: Runs, *, deadline_s: float = 10) -> Copy:
        """Start to sum the slice of each block where it is; the walk's source says where that is."""
        runs = _moved(blocks, walk.source)
        return self._start("sum_slices", runs, runs, walk.size, _words(walk), deadline_s)

    def digests(self, runs: Runs, run_bytes: int, group_bytes: int, *, deadline_s: float = 10) -> Copy:
        """Start to take the xxh3-64 of every `group_bytes` bytes of each run, the last group being what is left.

        They are `sums`, flat: run after run, group after group, and a word more if they are odd. All must be multiples
        of 8, and no group as short as `SHORT_DIGEST`; ValueError.
        """
        groups = math.ceil(run_bytes / group_bytes)
        last_bytes = run_bytes - (groups - 1) * group_bytes
        if (runs.base | runs.stride | group_bytes | last_bytes) % 8 or min(group_bytes, last_bytes) <= SHORT_DIGEST:
            raise ValueError(f"groups of {group_bytes} and {last_bytes} B from {runs.base:#x}, {runs.stride} B apart")
        step = self._ring.rows // groups * 2  # even, so that each batch fills whole rows
        count = len(runs.indices)
        copy = Copy(np.empty((math.ceil(count * groups / 2), 2), np.uint64))
        ends_at = time.monotonic() + deadline_s
        with on_device(self.device, "start to sum pages"):
            for start in range(0, count, step):
                indices = runs.indices[start : start + step]
                rows = slice(start * groups // 2, math.ceil((start + len(indices)) * groups / 2))
                assert copy.sums is not None
                batch = self._ring.take(copy.sums[rows], max(0.0, ends_at - time.monotonic()))
                copy.batches.append(batch)
                batch.slot.indices.reshape(-1)[: len(indices)] = indices
                sizes = (np.uint32(groups), np.uint64(group_bytes), np.uint64(last_bytes))
                table = _side(batch.slot.indices[0], runs)
                words = (*table, np.uint32(len(indices)), *sizes, batch.slot.device_sums)
                ctas = min(self.ctas, math.ceil(len(indices) * groups * DIGEST_LANES / DIGEST_THREADS))
                self._kernels["digest_groups"]((ctas,), (DIGEST_THREADS,), words, stream=self._launch_on)
                self._send_down(batch, (rows.stop - rows.start) * ROW_BYTES)
        return copy

    def after(self, event: int) -> None:
        """What is started from now on waits, on the device, for `event` of another stream."""
        with on_device(self.device, "wait for an event"):
            runtime.streamWaitEvent(self.stream, event)

    def close(self, deadline_s: float = 10) -> None:
        """Wait for what runs and release everything; TimeoutError."""
        self._ring.close(deadline_s)

    def _start(
        self,
        kernel: str,
        source: Runs,
        destination: Runs,
        size: int,
        words: tuple[Any, ...],
        deadline_s: float,
        into: Table | None = None,
    ) -> Copy:
        count = len(source.indices)
        if count != len(destination.indices):
            raise ValueError(f"{count} sources, {len(destination.indices)} destinations")
        if "sum" not in kernel:
            into = None
        elif into is None:
            into = np.empty((count, 2), np.uint64)
        copy = Copy(into)
        ends_at = time.monotonic() + deadline_s
        with on_device(self.device, "start a copy"):
            for start in range(0, count, self._ring.rows):
                part = slice(start, min(start + self._ring.rows, count))
                rows_of = None if copy.sums is None else copy.sums[part]
                batch = self._ring.take(rows_of, max(0.0, ends_at - time.monotonic()))
                copy.batches.append(batch)
                rows = part.stop - part.start
                batch.slot.indices[0, :rows] = source.indices[part]
                batch.slot.indices[1, :rows] = destination.indices[part]
                sides = (*_side(batch.slot.indices[0], source), *_side(batch.slot.indices[1], destination))
                self._launch(kernel, batch, (*sides, np.uint32(rows), *words), rows, size)
        return copy

    def _launch(self, kernel: str, batch: Batch, words: tuple[Any, ...], rows: int, run_bytes: int) -> None:
        """Kernel, sums down, event: in stream order."""
        slot, stream, size = batch.slot, self.stream, rows * ROW_BYTES
        chunks = max(1, math.ceil(run_bytes / CHUNK_BYTES))
        ctas = min(self.ctas, math.ceil(rows * chunks * 32 / THREADS))
        if batch.into is not None:
            runtime.memsetAsync(slot.device_sums, 0, size, stream)
        words = (*words, np.uint32(chunks), slot.device_sums)
        self._kernels[kernel]((ctas,), (THREADS,), words, stream=self._launch_on)
        self._send_down(batch, size)

    def _send_down(self, batch: Batch, size: int) -> None:
        """What a kernel left, if anything, and the event behind it."""
        slot = batch.slot
        if batch.into is not None:
            runtime.memcpyAsync(slot.sums.ctypes.data, slot.device_sums, size, _DEVICE_TO_HOST, self.stream)
        runtime.eventRecord(slot.event, self.stream)


def _side(indices: NDArray[np.uint64], runs: Runs) -> tuple[int, np.uint64, np.uint64]:
    """`Runs` as the kernels take it."""
    return indices.ctypes.data, np.uint64(runs.base), np.uint64(runs.stride)


def _moved(blocks: Runs, start: int) -> Runs:
    return blocks._replace(base=blocks.base + start)


def _whole(run_bytes: int) -> tuple[Any, ...]:
    """What the kernels of runs take beside them."""
    return (np.uint64(run_bytes),)


def _words(walk: Walk) -> tuple[Any, ...]:
    """A walk as the kernels take it; ValueError if a block's slice is more than they count."""
    if walk.size >= 1 << 32 or len(walk.steps) > STEPS:
        raise ValueError(f"a slice of {walk.size} B in {len(walk.steps)} loops")
    steps = (*walk.steps, *(Step(1, 0, 0, 0) for _ in range(STEPS - len(walk.steps))))
    loops = [word for step in steps for word in (np.uint32(step.times), *map(np.uint64, step[1:]))]
    return (np.uint32(walk.run_bytes), np.uint64(walk.size), np.uint64(walk.canonical), *loops)


def _stream() -> tuple[Any, int]:
    """A stream that waits for no other, as cupy's launches want it and as the runtime does."""
    from cupy.cuda import Stream

    stream = Stream(non_blocking=True)
    return stream, stream.ptr


def _compile() -> dict[str, Any]:
    from cupy import RawModule

    code = "\n".join(source.read_text() for source in SOURCES)
    module = RawModule(code=code, options=("-std=c++17",), backend="nvrtc")
    return {name: module.get_function(name) for name in KERNELS}
