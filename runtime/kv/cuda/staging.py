"""A ring of slots through which tables of block indices reach the device and sums come back.

The kernels read the tables where they lie, in page-locked host memory: a copy before each kernel costs more. A slot is
used again only after the event behind the last work that read it; until then whoever wants it waits, which bounds what
is under way.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.cuda.device import DISABLE_TIMING, on_device, runtime, wait_for

Table = NDArray[np.uint64]
ROW_BYTES = 16
"""A row is two 64-bit words: the index of a source and of a destination; a plain and a weighted sum."""
_MAPPED = 2


@dataclass(slots=True)
class Slot:
    """Host memory: `indices` [2, rows] of sources and destinations, `sums` [rows, 2], made at `device_sums`."""

    indices: Table
    sums: Table
    device_sums: int
    event: int
    batch: Batch | None = None


@dataclass(slots=True)
class Batch:
    """Work that uses a slot; `into` takes the sums when it is done."""

    slot: Slot
    into: Table | None
    settled: bool = False

    def settle(self, deadline_s: float) -> None:
        """Wait for the work and free its slot; TimeoutError, DeviceError."""
        if self.settled:
            return
        wait_for(self.slot.event, deadline_s)
        if self.into is not None:
            self.into[:] = self.slot.sums[: len(self.into)]
        self.settled = True
        self.slot.batch = None


@dataclass(slots=True)
class Ring:
    """`slots` slots of `rows` rows each. Used from one thread at a time."""

    device: int
    slots: int
    rows: int
    _ring: list[Slot] = field(default_factory=list)
    _host: int = 0
    _device_memory: int = 0
    _next: int = 0

    def __post_init__(self) -> None:
        size = self.rows * ROW_BYTES
        with on_device(self.device, "allocate staging memory"):
            self._host = runtime.hostAlloc(2 * self.slots * size, _MAPPED)
            self._device_memory = runtime.malloc(self.slots * size)
            for slot in range(self.slots):
                start = self._host + 2 * slot * size
                event = runtime.eventCreateWithFlags(DISABLE_TIMING)
                indices, sums = _table(start, 2, self.rows), _table(start + size, self.rows, 2)
                self._ring.append(Slot(indices, sums, self._device_memory + slot * size, event))

    def take(self, into: Table | None, deadline_s: float) -> Batch:
        """The next slot, once the work before is done with it; TimeoutError, DeviceError."""
        slot = self._ring[self._next]
        if slot.batch is not None:
            slot.batch.settle(deadline_s)
        self._next = (self._next + 1) % self.slots
        slot.batch = Batch(slot, into)
        return slot.batch

    def close(self, deadline_s: float) -> None:
        """Wait for what is under way, then free the memory; TimeoutError keeps it."""
        for slot in self._ring:
            if slot.batch is not None:
                slot.batch.settle(deadline_s)
        with on_device(self.device, "free staging memory"):
            for slot in self._ring:
                runtime.eventDestroy(slot.event)
            self._ring.clear()
            runtime.free(self._device_memory)
            runtime.freeHost(self._host)


def _table(address: int, rows: int, columns: int) -> Table:
    memory = (ctypes.c_uint8 * (rows * columns * 8)).from_address(address)
    return np.frombuffer(memoryview(memory).cast("B"), np.uint64).reshape(rows, columns)
