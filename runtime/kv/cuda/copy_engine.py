"""A copy engine beside the kernel: together they fill a link that neither fills alone.

Between two H200 stores of a kernel reach 366 GB/s of the 394 that one plain copy gets, and an engine that is given runs
of 2 MiB reaches 353, for from one run to the next it pauses. The kernel fills the pauses: together 380. An engine takes
nothing of the device from whoever computes there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.cuda.batch import SourceOrder, copy_batch
from dynamoc.runtime.kv.cuda.copier import CTAS, Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import DISABLE_TIMING, NON_BLOCKING, DeviceError, on_device, runtime, wait_for
from dynamoc.runtime.kv.cuda.staging import Table

LEAST_BYTES = 1 << 20
"""Of a run: to tell the driver of one takes up to 1 µs, and of 256 KiB kernel and engine together moved less."""
PAUSE_BYTES = 512 << 10
"""What the kernel moves while an engine goes from one run to the next."""
HEAD_RUNS = 64
"""The engine moves so many while the kernel is started, which takes as long."""
SETTLED_S = 10.0
"""For what was started before something failed, whatever deadline the rest had."""


def engine_share(count: int, run_bytes: int) -> int:
    """How many of so many runs an engine copies while the kernel copies the others in its pauses."""
    return 0 if run_bytes < LEAST_BYTES else round(count * run_bytes / (run_bytes + PAUSE_BYTES))


class EngineCopier(Copier):
    """A `Copier` one of whose device's copy engines takes its share of long runs; the driver must take batches."""

    def __init__(self, device: int, ctas: int = CTAS) -> None:
        super().__init__(device, ctas)
        self._engine = _Engine(device)
        self._summing = Copier(device)
        """For the engine's runs: on a stream of its own, since the kernel copies for as long as the engine does."""

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
        """As a `Copier` does."""
        count = len(source.indices)
        own = slice(count - engine_share(count, run_bytes))
        if own.stop == count:
            return super().copy(source, destination, run_bytes, sums=sums, into=into, deadline_s=deadline_s)
        head, rest = slice(own.stop, min(own.stop + HEAD_RUNS, count)), slice(own.stop + HEAD_RUNS, count)
        rows = (np.empty((count, 2), np.uint64) if into is None else into) if sums else None
        ends, mine = (source.part(own), destination.part(own)), None if rows is None else rows[own]
        copy = Copy(rows)
        try:
            copy.batches.append(self._engine.copy(source.part(head), destination.part(head), run_bytes))
            copy.batches += super().copy(*ends, run_bytes, sums=sums, into=mine, deadline_s=deadline_s).batches
            copy.batches.append(self._engine.copy(source.part(rest), destination.part(rest), run_bytes))
            if rows is not None:
                theirs = source.part(slice(own.stop, count))
                copy.batches += self._summing.sum(
                    theirs, run_bytes, into=rows[own.stop :], deadline_s=deadline_s
                ).batches
        except (DeviceError, TimeoutError):
            copy.wait(SETTLED_S)  # till then nobody else may have the runs
            raise
        return copy

    def after(self, event: int) -> None:
        """What is started from now on waits, on the device, for `event` of another stream."""
        super().after(event)
        self._engine.after(event)
        self._summing.after(event)

    def close(self, deadline_s: float = 10) -> None:
        """Wait for what runs and release everything; TimeoutError."""
        super().close(deadline_s)
        self._summing.close(deadline_s)
        self._engine.close()


@dataclass(slots=True)
class _Batch:
    """What an engine copies; `events` gets the event back."""

    event: int
    events: list[int]
    settled: bool = False

    def settle(self, deadline_s: float) -> None:
        """Wait for it; TimeoutError, DeviceError."""
        if not self.settled:
            wait_for(self.event, deadline_s)
            self.settled = True
            self.events.append(self.event)


class _Engine:
    """A stream of batches, and events to use again."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._events: list[int] = []
        with on_device(device, "make a stream"):
            self._stream: int = runtime.streamCreateWithFlags(NON_BLOCKING)

    def copy(self, source: Runs, destination: Runs, run_bytes: int) -> _Batch:
        """Start to copy; DeviceError, and then nothing is under way."""
        sizes: NDArray[np.uint64] = np.full(len(source.indices), run_bytes, np.uint64)
        with on_device(self._device, "start a copy engine"):
            event = self._events.pop() if self._events else runtime.eventCreateWithFlags(DISABLE_TIMING)
            try:
                ends = destination.addresses, source.addresses
                copy_batch(self._device, *ends, sizes, self._stream, SourceOrder.STREAM)
            except DeviceError:
                runtime.streamSynchronize(self._stream)
                raise
            runtime.eventRecord(event, self._stream)
        return _Batch(event, self._events)

    def after(self, event: int) -> None:
        with on_device(self._device, "wait for an event"):
            runtime.streamWaitEvent(self._stream, event)

    def close(self) -> None:
        """Wait for what runs."""
        with on_device(self._device, "release a stream"):
            runtime.streamSynchronize(self._stream)
            while self._events:
                runtime.eventDestroy(self._events.pop())
            runtime.streamDestroy(self._stream)
