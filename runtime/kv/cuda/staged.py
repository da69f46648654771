"""Copies shuffled blocks from or to one range of host memory: a kernel gathers or scatters, the copy engine moves.

A copy engine fills the link better than kernels do, above all when both directions are busy, but it pays for each
piece. So blocks meet in device memory, which is twenty times as fast as the link, and cross it in a few large pieces.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from dynamoc.runtime.kv.cuda.copier import Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import on_device, runtime, wait_for

PIECES = 3
PIECE_BYTES = 32 << 20
CTAS = 32
SLOTS, SLOT_RUNS = 64, 2048
"""Enough that starting a copy of 2 GiB waits for nothing."""
_DISABLE_TIMING = 2
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


class StagedCopier:
    """One direction at a time, one copy at a time; used from one thread. `piece_bytes` must hold a block."""

    def __init__(self, device: int, ctas: int = CTAS, pieces: int = PIECES, piece_bytes: int = PIECE_BYTES) -> None:
        self.device = device
        self.piece_bytes = piece_bytes
        self._kernels = Copier(device, ctas, SLOTS, SLOT_RUNS)
        with on_device(device, "allocate staging memory"):
            self._engine: int = runtime.streamCreateWithFlags(1)
            self._pieces: list[int] = [runtime.malloc(piece_bytes) for _ in range(pieces)]
            self._filled: list[int] = [runtime.eventCreateWithFlags(_DISABLE_TIMING) for _ in range(pieces)]
            self._drained: list[int] = [runtime.eventCreateWithFlags(_DISABLE_TIMING) for _ in range(pieces)]
            self._done: int = runtime.eventCreateWithFlags(_DISABLE_TIMING)

    def offload(self, source: Runs, host: int, run_bytes: int) -> StagedCopy:
        """Start to copy run i of `source` to `host + i * run_bytes`."""
        copy = StagedCopy(self._done)
        for turn, part in self._parts(source, run_bytes):
            piece, filled, drained = self._piece(turn)
            self._kernels.after(drained)
            copy.copies.append(self._kernels.copy(_some(source, part), _packed(piece, part, run_bytes), run_bytes))
            with on_device(self.device, "offload"):
                runtime.eventRecord(filled, self._kernels.stream)
                runtime.streamWaitEvent(self._engine, filled)
                self._move(host + part.start * run_bytes, piece, part, run_bytes)
                runtime.eventRecord(drained, self._engine)
        with on_device(self.device, "offload"):
            runtime.eventRecord(self._done, self._engine)
        return copy

    def onboard(self, host: int, destination: Runs, run_bytes: int) -> StagedCopy:
        """Start to copy `host + i * run_bytes` onto run i of `destination`."""
        copy = StagedCopy(self._done)
        for turn, part in self._parts(destination, run_bytes):
            piece, filled, drained = self._piece(turn)
            with on_device(self.device, "onboard"):
                runtime.streamWaitEvent(self._engine, drained)
                self._move(piece, host + part.start * run_bytes, part, run_bytes)
                runtime.eventRecord(filled, self._engine)
            self._kernels.after(filled)
            copy.copies.append(self._kernels.copy(_packed(piece, part, run_bytes), _some(destination, part), run_bytes))
            with on_device(self.device, "onboard"):
                runtime.eventRecord(drained, self._kernels.stream)
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

    def _parts(self, runs: Runs, run_bytes: int) -> list[tuple[int, slice]]:
        step, count = self.piece_bytes // run_bytes, len(runs.indices)
        if not step:
            raise ValueError(f"a block of {run_bytes} B does not fit a piece of {self.piece_bytes} B")
        return list(enumerate(slice(start, min(start + step, count)) for start in range(0, count, step)))

    def _piece(self, turn: int) -> tuple[int, int, int]:
        place = turn % len(self._pieces)
        return self._pieces[place], self._filled[place], self._drained[place]

    def _move(self, destination: int, source: int, part: slice, run_bytes: int) -> None:
        size = (part.stop - part.start) * run_bytes
        runtime.memcpyAsync(destination, source, size, _BY_ADDRESS, self._engine)


def _some(runs: Runs, part: slice) -> Runs:
    return runs._replace(indices=runs.indices[part])


def _packed(piece: int, part: slice, run_bytes: int) -> Runs:
    return Runs(piece, run_bytes, np.arange(part.stop - part.start, dtype=np.uint64))
