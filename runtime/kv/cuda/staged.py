"""Copies shuffled blocks between a device and host memory: a kernel gathers or scatters, the copy engine moves.

A copy engine fills the link better than kernels do, above all when both directions are busy, and takes nothing from
what the device computes; but it pays for each piece. So blocks meet in device memory, which is twenty times as fast as
the link, in the order of their places on the host, and cross it in as few pieces as the host's places allow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dynamoc.runtime.kv.cuda.batch import SourceOrder, copy_batch
from dynamoc.runtime.kv.cuda.copier import Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import DISABLE_TIMING, NON_BLOCKING, on_device, runtime, wait_for
from dynamoc.runtime.kv.transfer.extents import Extents, are_one, extents, in_order

PIECES = 3
PIECE_BYTES = 32 << 20
CTAS = 32
SLOTS, SLOT_RUNS = 64, 2048
"""Enough that starting a copy of 2 GiB waits for nothing."""
_BY_ADDRESS = 4


@dataclass(slots=True)
class StagedCopy:
    """Work under way."""

    event: int
    copies: list[Copy] = field(default_factory=list)

    def wait(self, deadline_s: float) -> None:
        """Until every byte is where it belongs; TimeoutError, DeviceError. Before the next copy is started."""
        ends_at = time.monotonic() + deadline_s
        for copy in self.copies:
            copy.wait(max(0.0, ends_at - time.monotonic()))
        wait_for(self.event, max(0.0, ends_at - time.monotonic()))


class _Part(NamedTuple):
    """Blocks that cross the link in one turn, and the device memory in which they meet."""

    device: Runs
    host: Runs
    address: int
    filled: int
    drained: int


class StagedCopier:
    """One direction at a time, one copy at a time; used from one thread. `piece_bytes` must hold a block."""

    def __init__(self, device: int, ctas: int = CTAS, pieces: int = PIECES, piece_bytes: int = PIECE_BYTES) -> None:
        self.device = device
        self.piece_bytes = piece_bytes
        self._kernels = Copier(device, ctas, SLOTS, SLOT_RUNS)
        with on_device(device, "allocate staging memory"):
            self._engine: int = runtime.streamCreateWithFlags(NON_BLOCKING)
            self._pieces: list[int] = [runtime.malloc(piece_bytes) for _ in range(pieces)]
            self._filled: list[int] = [runtime.eventCreateWithFlags(DISABLE_TIMING) for _ in range(pieces)]
            self._drained: list[int] = [runtime.eventCreateWithFlags(DISABLE_TIMING) for _ in range(pieces)]
            self._done: int = runtime.eventCreateWithFlags(DISABLE_TIMING)

    def offload(self, source: Runs, host: Runs, run_bytes: int) -> StagedCopy:
        """Start to copy run i of `source` onto run i of `host`."""
        copy = StagedCopy(self._done)
        for part in self._parts(source, host, run_bytes):
            self._kernels.after(part.drained)
            met = _met(part, run_bytes)
            copy.copies.append(self._kernels.copy(part.device, met, run_bytes))
            with on_device(self.device, "offload"):
                runtime.eventRecord(part.filled, self._kernels.stream)
                runtime.streamWaitEvent(self._engine, part.filled)
                self._move(part, run_bytes, to_host=True)
                runtime.eventRecord(part.drained, self._engine)
        with on_device(self.device, "offload"):
            runtime.eventRecord(self._done, self._engine)
        return copy

    def onboard(self, host: Runs, destination: Runs, run_bytes: int) -> StagedCopy:
        """Start to copy run i of `host`, which nobody writes any more, onto run i of `destination`."""
        copy = StagedCopy(self._done)
        for part in self._parts(destination, host, run_bytes):
            with on_device(self.device, "onboard"):
                runtime.streamWaitEvent(self._engine, part.drained)
                self._move(part, run_bytes, to_host=False)
                runtime.eventRecord(part.filled, self._engine)
            self._kernels.after(part.filled)
            copy.copies.append(self._kernels.copy(_met(part, run_bytes), part.device, run_bytes))
            with on_device(self.device, "onboard"):
                runtime.eventRecord(part.drained, self._kernels.stream)
        with on_device(self.device, "onboard"):
            runtime.eventRecord(self._done, self._kernels.stream)
        return copy

    def close(self, deadline_s: float = 10) -> None:
        """Wait for what runs and release everything; TimeoutError."""
        self._kernels.close(deadline_s)
        wait_for(self._done, deadline_s)
        with on_device(self.device, "free staging memory"):
            for event in (*self._filled, *self._drained, self._done):
                runtime.eventDestroy(event)
            for piece in self._pieces:
                runtime.free(piece)
            runtime.streamDestroy(self._engine)

    def _parts(self, device: Runs, host: Runs, run_bytes: int) -> Iterator[_Part]:
        step, count = self.piece_bytes // run_bytes, len(host.indices)
        if not step:
            raise ValueError(f"a block of {run_bytes} B does not fit a piece of {self.piece_bytes} B")
        if len(device.indices) != count:
            raise ValueError(f"{len(device.indices)} blocks of the device, {count} of the host")
        order = in_order(host.indices)
        for turn, start in enumerate(range(0, count, step)):
            rows, place = order[start : start + step], turn % len(self._pieces)
            sides = [side.part(rows) for side in (device, host)]
            yield _Part(sides[0], sides[1], self._pieces[place], self._filled[place], self._drained[place])

    def _move(self, part: _Part, run_bytes: int, *, to_host: bool) -> None:
        """Across the link, in one piece for each range of the host; blocks further apart than their size are none."""
        base, stride, indices = part.host
        if stride == run_bytes and are_one(indices):
            ends = (base + int(indices[0]) * stride, part.address)
            to, from_ = ends if to_host else ends[::-1]
            runtime.memcpyAsync(to, from_, indices.size * run_bytes, _BY_ADDRESS, self._engine)
            return
        ranges = extents(indices) if stride == run_bytes else Extents(indices, np.ones_like(indices))
        host, sizes = Runs(base, stride, ranges.firsts).addresses, ranges.counts * np.uint64(run_bytes)
        device = np.cumsum(sizes) - sizes + np.uint64(part.address)
        if to_host:
            copy_batch(self.device, host, device, sizes, self._engine, SourceOrder.STREAM)
        else:
            copy_batch(self.device, device, host, sizes, self._engine, SourceOrder.ANY)


def _met(part: _Part, run_bytes: int) -> Runs:
    """The blocks side by side in device memory."""
    return Runs(part.address, run_bytes, np.arange(len(part.host.indices), dtype=np.uint64))
