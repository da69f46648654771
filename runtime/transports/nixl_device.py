"""Blocks of device memory, packed into slots of device memory by the copy kernels, which sum them on the way."""

from __future__ import annotations

import contextlib
import logging
import math
import time

import numpy as np

from dynamoc.runtime.kv.cuda.copier import CTAS, Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import SPIN_S, DeviceError, checked, has_passed, on_device, runtime
from dynamoc.runtime.kv.cuda.pool import GRAIN_BYTES, DevicePool
from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.transfer.checksums import Checksum, Table
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.walk import packed, unpacked
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.device_sums import DeviceSums
from dynamoc.runtime.transports.nixl_agent import Agent, Place, pause
from dynamoc.runtime.transports.nixl_staging import Slots, Stage
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.shards import Portion

SLOTS = Slots(4, 32 << 20)
"""32 MiB take 0.1 ms over NVLink, 0.7 ms over a port of 400 Gb/s, and two kernels and two messages 0.2 ms: so one slot
is packed, one or two are written and one is unpacked at any time."""
PART_BYTES = 256 << 20
"""Verified in 0.1 ms; the next write begins some 0.3 ms after the one before."""
REMIND_S = 10.0

log = logging.getLogger("dynamoc.transports.nixl")


class DeviceStage(Stage):
    """Memory that the kernels of `copier` reach; all that goes in or out passes through its stream, in order."""

    def __init__(self, agent: Agent, place: Place, slots: Slots, copier: Copier) -> None:
        super().__init__(agent, place, slots)
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

    def stage(self, agent: Agent, slots: Slots) -> DeviceStage:
        """In an allocation of its own."""
        size = -(-slots.count * slots.size // GRAIN_BYTES) * GRAIN_BYTES
        copier = self.copier()
        try:
            with on_device(self._ordinal, f"allocate {size} B for slots"):
                place = Place(runtime.malloc(size), self._ordinal)
        except DeviceError as error:
            copier.close()
            raise TransportError(str(error)) from error
        return DeviceStage(agent, place, slots, copier)

    def copier(self) -> Copier:
        """The kernels, on a stream of their own; TransportError."""
        try:
            return Copier(self._ordinal, self._ctas, slots=SLOTS.count)
        except DeviceError as error:
            raise TransportError(str(error)) from error


class Gather:
    """A kernel under way, which nothing stops: blocks that it reads may not be freed before."""

    def __init__(self, copy: Copy, sums: Table, device: int) -> None:
        self._copy = copy
        self._sums = sums
        self._device = device

    def is_done(self) -> bool:
        """With sums; TransportError if the device failed."""
        try:
            if not self._copy.is_done():
                return False
        except DeviceError as error:
            raise TransportError(f"blocks cannot be gathered: {error}") from error
        assert self._copy.sums is not None
        self._sums[:] = self._copy.sums
        return True

    def settle(self) -> None:
        """A device that failed reads nothing any more."""
        with contextlib.suppress(DeviceError):
            _settle(self._copy, self._device)


class DevicePacker:
    """For a pool of device memory."""

    checksum = Checksum.SUMS
    part_bytes = PART_BYTES
    streams = 1
    """Threads that spin beside each other hold the interpreter's lock up."""
    spin_s = SPIN_S

    def __init__(self, pool: DevicePool, memory: DeviceMemory) -> None:
        self.slots = SLOTS
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

    def pack(
        self, stage: Stage, turn: int, portion: Portion, blocks: Indices, sums: Table, check: wire.Check
    ) -> Gather:
        """One kernel."""
        check()
        assert isinstance(stage, DeviceStage)
        pool, inside = self._blocks(blocks), _rows(stage.slot(turn), blocks.size, portion.size)
        try:
            if portion.way is None:
                pool = pool._replace(base=pool.base + portion.span.start)
                copy = stage.copier.copy(pool, inside, portion.size, sums=True, deadline_s=math.inf)
            else:
                copy = stage.copier.copy_slices(packed(portion.way), pool, inside, sums=True, deadline_s=math.inf)
        except DeviceError as error:
            raise TransportError(f"blocks cannot be gathered: {error}") from error
        return Gather(copy, sums, self._pool.device)

    def unpack(self, stage: Stage, turn: int, portion: Portion, blocks: Indices) -> None:
        """One kernel, which nothing stops either: the blocks are nobody else's until it has ended."""
        assert isinstance(stage, DeviceStage)
        pool, inside = self._blocks(blocks), _rows(stage.slot(turn), blocks.size, portion.size)
        try:
            if portion.way is None:
                pool = pool._replace(base=pool.base + portion.span.start)
                copy = stage.copier.copy(inside, pool, portion.size, deadline_s=math.inf)
            else:
                copy = stage.copier.copy_slices(unpacked(portion.way), inside, pool, deadline_s=math.inf)
            _settle(copy, self._pool.device)
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


def _settle(copy: Copy, device: int) -> None:
    began = time.monotonic()
    remind_at = began + REMIND_S
    while not copy.is_done():
        if time.monotonic() > remind_at:
            log.critical("GPU %s has not copied blocks for %g s", device, REMIND_S)
            remind_at += REMIND_S
        pause(began, SPIN_S)


def _rows(slot: Place, count: int, size: int) -> Runs:
    """Side by side from the beginning of a slot."""
    return Runs(slot.address, size, np.arange(count, dtype=np.uint64))
