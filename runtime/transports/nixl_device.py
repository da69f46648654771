"""Blocks of device memory, packed into slots of device memory by the copy kernels, which sum them on the way."""

from __future__ import annotations

import logging
import math
import time

import numpy as np

from dynamoc.runtime.kv.cuda.copier import CTAS, Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError, checked, has_passed, on_device, runtime
from dynamoc.runtime.kv.cuda.pool import GRAIN_BYTES, DevicePool
from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.transfer.checksums import Checksum, Table
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.walk import packed, unpacked
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.device_sums import DeviceSums
from dynamoc.runtime.transports.nixl_agent import Agent, Place, pause
from dynamoc.runtime.transports.nixl_staging import SLOTS, Stage
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.shards import Portion

SLOT_BYTES = 32 << 20
"""86 µs over NVLink, 0.7 ms over a port of 400 Gb/s: longer than two kernels and two messages take."""
PART_BYTES = 128 << 20
"""As nvlink's: several slots, so that what is packed, written and unpacked at the same time is most of it."""
TABLES = 2
"""Of block indices, at each stage: one is filled while the device reads the other."""
REMIND_S = 10.0

log = logging.getLogger("dynamoc.transports.nixl")


class DeviceStage(Stage):
    """Memory that the kernels of `copier` reach; all that goes in or out passes through its stream, in order."""

    def __init__(self, agent: Agent, place: Place, slot_bytes: int, copier: Copier) -> None:
        super().__init__(agent, place, slot_bytes)
        self.copier = copier


class DeviceMemory:
    """That of a GPU. Plain allocations: UCX maps them into a peer's process, and hardly moves others."""

    def __init__(self, device: int, ctas: int = CTAS) -> None:
        self.device: int | None = device
        self._ordinal = device
        self._ctas = ctas

    def use(self) -> None:
        """UCX copies and maps in the context that the thread has."""
        try:
            with checked(f"use GPU {self._ordinal}"):
                runtime.setDevice(self._ordinal)
        except DeviceError as error:
            raise TransportError(str(error)) from error

    def stage(self, agent: Agent, slot_bytes: int) -> DeviceStage:
        """In an allocation of its own."""
        size = -(-SLOTS * slot_bytes // GRAIN_BYTES) * GRAIN_BYTES
        copier = self.copier()
        try:
            with on_device(self._ordinal, f"allocate {size} B for slots"):
                place = Place(runtime.malloc(size), self._ordinal)
        except DeviceError as error:
            copier.close()
            raise TransportError(str(error)) from error
        return DeviceStage(agent, place, slot_bytes, copier)

    def copier(self) -> Copier:
        """The kernels, on a stream of their own; TransportError."""
        try:
            return Copier(self._ordinal, self._ctas, slots=TABLES)
        except DeviceError as error:
            raise TransportError(str(error)) from error


class DevicePacker:
    """For a pool of device memory."""

    checksum = Checksum.SUMS
    part_bytes = PART_BYTES

    def __init__(self, pool: DevicePool, memory: DeviceMemory) -> None:
        self.slot_bytes = SLOT_BYTES
        self.memory = memory
        self._pool = pool
        self._sums: DeviceSums | None = None

    def prepare(self) -> None:
        """Compile the kernels."""
        if self._sums is None:
            self._sums = DeviceSums(self._pool, self.memory.copier())

    def await_event(self, event: int, check: wire.Check) -> None:
        """By looking at it: the device must have written blocks before they are packed, and a lane may be stopped."""
        began = time.monotonic()
        try:
            while not has_passed(event):
                check()
                pause(began)
        except DeviceError as error:
            raise TransportError(str(error)) from error

    def pack(self, stage: Stage, slot: int, portion: Portion, blocks: Indices, sums: Table, check: wire.Check) -> None:
        """One kernel, which nothing stops: blocks that it reads may not be freed before."""
        assert isinstance(stage, DeviceStage)
        pool, inside = self._blocks(blocks), _rows(stage.slot(slot), blocks.size, portion.size)
        try:
            if portion.way is None:
                pool = pool._replace(base=pool.base + portion.span.start)
                copy = stage.copier.copy(pool, inside, portion.size, sums=True, deadline_s=math.inf)
            else:
                copy = stage.copier.copy_slices(packed(portion.way), pool, inside, sums=True, deadline_s=math.inf)
            self._settle(copy)
        except DeviceError as error:
            raise TransportError(f"blocks cannot be gathered: {error}") from error
        check()
        assert copy.sums is not None
        sums[:] = copy.sums

    def unpack(self, stage: Stage, slot: int, portion: Portion, blocks: Indices) -> None:
        """One kernel, which nothing stops either: the blocks are nobody else's until it has ended."""
        assert isinstance(stage, DeviceStage)
        pool, inside = self._blocks(blocks), _rows(stage.slot(slot), blocks.size, portion.size)
        try:
            if portion.way is None:
                pool = pool._replace(base=pool.base + portion.span.start)
                copy = stage.copier.copy(inside, pool, portion.size, deadline_s=math.inf)
            else:
                copy = stage.copier.copy_slices(unpacked(portion.way), inside, pool, deadline_s=math.inf)
            self._settle(copy)
        except DeviceError as error:  # such a device writes nothing any more
            raise TransportError(f"blocks cannot be scattered: {error}") from error

    async def mismatches(self, blocks: Indices, checksums: bytes, layers: range | None, heads: Heads | None) -> Indices:
        """Sum what arrived."""
        self.prepare()
        assert self._sums is not None
        return await self._sums.mismatches(blocks, checksums, layers, heads)

    def close(self) -> None:
        """Release the kernels' tables."""
        if self._sums is not None:
            sums, self._sums = self._sums, None
            sums.close()

    def _blocks(self, blocks: Indices) -> Runs:
        return Runs(self._pool.address, self._pool.layout.block_bytes, blocks.astype(np.uint64))

    def _settle(self, copy: Copy) -> None:
        began = time.monotonic()
        remind_at = began + REMIND_S
        while not copy.is_done():
            if time.monotonic() > remind_at:
                log.critical("GPU %s has not copied blocks for %g s", self._pool.device, REMIND_S)
                remind_at += REMIND_S
            pause(began)


def _rows(slot: Place, count: int, size: int) -> Runs:
    """Side by side from the beginning of a slot."""
    return Runs(slot.address, size, np.arange(count, dtype=np.uint64))
