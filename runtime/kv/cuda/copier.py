"""Copies runs of bytes between any addresses a device reaches, by one kernel that walks tables of indices."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.cuda.device import DeviceError, on_device, require_devices, runtime
from dynamoc.runtime.kv.cuda.staging import ROW_BYTES, Batch, Ring, Table

SOURCE = Path(__file__).with_name("scatter_gather.cu")
CHUNK_BYTES = 4096
"""What a warp takes at a time; CHUNK in the kernel."""
THREADS = 512
CTAS = 264
SLOTS = 8
SLOT_RUNS = 16384
_DEVICE_TO_HOST = 2


class Runs(NamedTuple):
    """Where runs begin: at `base + stride * indices[i]`."""

    base: int
    stride: int
    indices: NDArray[np.uint64]


class Copy:
    """Work under way on the device. `sums` (rows of plain and weighted, one a run) are there once it is done."""

    def __init__(self, sums: Table | None) -> None:
        self.sums = sums
        self.batches: list[Batch] = []

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
        self, source: Runs, destination: Runs, run_bytes: int, *, sums: bool = False, deadline_s: float = 10
    ) -> Copy:
        """Start to copy run i of `source` onto run i of `destination`; waits only for staging slots."""
        if len(source.indices) != len(destination.indices):
            raise ValueError(f"{len(source.indices)} sources, {len(destination.indices)} destinations")
        return self._start("copy_and_sum_runs" if sums else "copy_runs", source, destination, run_bytes, deadline_s)

    def sum(self, runs: Runs, run_bytes: int, *, deadline_s: float = 10) -> Copy:
        """Start to sum the runs where they are."""
        return self._start("sum_runs", runs, runs, run_bytes, deadline_s)

    def after(self, event: int) -> None:
        """What is started from now on waits, on the device, for `event` of another stream."""
        with on_device(self.device, "wait for an event"):
            runtime.streamWaitEvent(self.stream, event)

    def close(self, deadline_s: float = 10) -> None:
        """Wait for what runs and release everything; TimeoutError."""
        self._ring.close(deadline_s)

    def _start(self, kernel: str, source: Runs, destination: Runs, run_bytes: int, deadline_s: float) -> Copy:
        count = len(source.indices)
        copy = Copy(None if kernel == "copy_runs" else np.empty((count, 2), np.uint64))
        ends_at = time.monotonic() + deadline_s
        with on_device(self.device, "start a copy"):
            for start in range(0, count, self._ring.rows):
                part = slice(start, min(start + self._ring.rows, count))
                into = None if copy.sums is None else copy.sums[part]
                batch = self._ring.take(into, max(0.0, ends_at - time.monotonic()))
                copy.batches.append(batch)
                rows = part.stop - part.start
                batch.slot.indices[0, :rows] = source.indices[part]
                batch.slot.indices[1, :rows] = destination.indices[part]
                sides = (*_side(batch.slot.indices[0], source), *_side(batch.slot.indices[1], destination))
                self._launch(kernel, batch, sides, rows, run_bytes)
        return copy

    def _launch(self, kernel: str, batch: Batch, sides: tuple[Any, ...], rows: int, run_bytes: int) -> None:
        """Kernel, sums down, event: in stream order."""
        slot, stream, size = batch.slot, self.stream, rows * ROW_BYTES
        chunks = max(1, math.ceil(run_bytes / CHUNK_BYTES))
        ctas = min(self.ctas, math.ceil(rows * chunks * 32 / THREADS))
        if batch.into is not None:
            runtime.memsetAsync(slot.device_sums, 0, size, stream)
        words = (*sides, np.uint32(rows), np.uint64(run_bytes), np.uint32(chunks), slot.device_sums)
        self._kernels[kernel]((ctas,), (THREADS,), words, stream=self._launch_on)
        if batch.into is not None:
            runtime.memcpyAsync(slot.sums.ctypes.data, slot.device_sums, size, _DEVICE_TO_HOST, stream)
        runtime.eventRecord(slot.event, stream)


def _side(indices: NDArray[np.uint64], runs: Runs) -> tuple[int, np.uint64, np.uint64]:
    """`Runs` as the kernels take it."""
    return indices.ctypes.data, np.uint64(runs.base), np.uint64(runs.stride)


def _stream() -> tuple[Any, int]:
    """A stream that waits for no other, as cupy's launches want it and as the runtime does."""
    from cupy.cuda import Stream

    stream = Stream(non_blocking=True)
    return stream, stream.ptr


def _compile() -> dict[str, Any]:
    from cupy import RawModule

    module = RawModule(code=SOURCE.read_text(), options=("-std=c++17",), backend="nvrtc")
    return {name: module.get_function(name) for name in ("copy_runs", "copy_and_sum_runs", "sum_runs")}
