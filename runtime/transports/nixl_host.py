"""Blocks of host memory, packed into slots of host memory by numpy."""

from __future__ import annotations

import asyncio
import mmap

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.checksums import Checksum, Table, units_of
from dynamoc.runtime.kv.transfer.cuts import Cut, mismatches
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import SPIN_S, Agent, Place
from dynamoc.runtime.transports.nixl_staging import Slots, Stage
from dynamoc.runtime.transports.shards import Portion, cut_from, cut_of
from dynamoc.runtime.transports.tcp_writer import STREAMS
from dynamoc.runtime.transports.transfer import HOST_PART_BYTES, Digest

SLOTS = Slots(2, 8 << 20)
"""One is filled or emptied while the other is written; smaller runs do not fill a link."""


class HostStage(Stage):
    """Anonymous memory."""

    def __init__(self, agent: Agent, slots: Slots) -> None:
        self._memory = mmap.mmap(-1, slots.count * slots.size)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8)
        super().__init__(agent, Place(int(self._bytes.ctypes.data), None), slots)

    def rows(self, turn: int, count: int, row_bytes: int) -> NDArray[np.uint8]:
        """The beginning of a slot as so many rows."""
        start = self.slot(turn).address - self.place.address
        return self._bytes[start : start + count * row_bytes].reshape(count, row_bytes)


class HostMemory:
    """That of this process."""

    device: int | None = None

    def use(self) -> None:
        """Every thread does."""

    def stage(self, agent: Agent, slots: Slots) -> HostStage:
        """In whole pages."""
        return HostStage(agent, slots)


class Packed:
    """A slot that was filled at once."""

    def is_done(self) -> bool:
        """It is."""
        return True

    def settle(self) -> None:
        """Nothing goes on."""


class HostPacker:
    """For a pool of host memory."""

    checksum = Checksum.XXH3
    part_bytes = HOST_PART_BYTES
    streams = STREAMS
    spin_s = SPIN_S

    def __init__(self, pool: HostPool, digest: Digest) -> None:
        self.slots = SLOTS
        self.memory = HostMemory()
        self._pool = pool
        self._digest = digest

    def prepare(self) -> None:
        """Nothing takes long."""

    def await_event(self, event: int, check: wire.Check) -> None:
        """There are none."""
        del event, check
        raise AssertionError("host memory has no events")

    def pack(
        self, stage: Stage, turn: int, portion: Portion, blocks: Indices, sums: Table, check: wire.Check
    ) -> Packed:
        """Unit by unit, at once."""
        assert isinstance(stage, HostStage)
        cut, rows = self._cut(portion), stage.rows(turn, blocks.size, portion.size)
        for unit, part in enumerate(units_of(blocks.size, portion.size)):
            check()
            data = cut.pick(blocks[part])
            sums[unit] = self._digest(data)
            rows[part] = data.view(np.uint8)
        return Packed()

    def unpack(self, stage: Stage, turn: int, portion: Portion, blocks: Indices) -> None:
        """All at once."""
        assert isinstance(stage, HostStage)
        self._cut(portion).put(blocks, stage.rows(turn, blocks.size, portion.size))

    async def mismatches(self, blocks: Indices, checksums: bytes, layers: range | None, heads: Heads | None) -> Indices:
        """Hash what arrived."""
        return await asyncio.to_thread(mismatches, cut_from(self._pool, heads, layers), blocks, checksums)

    def close(self) -> None:
        """It has nothing."""

    def _cut(self, portion: Portion) -> Cut:
        return cut_of(self._pool.data, self._pool.layout, portion.way, portion.layers)
