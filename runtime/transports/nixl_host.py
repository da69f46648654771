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
from dynamoc.runtime.transports.nixl_agent import Agent, Place
from dynamoc.runtime.transports.nixl_staging import SLOTS, Stage
from dynamoc.runtime.transports.shards import Portion, cut_from, cut_of
from dynamoc.runtime.transports.transfer import HOST_PART_BYTES, Digest

SLOT_BYTES = 8 << 20
"""Smaller runs do not fill a link."""


class HostStage(Stage):
    """Anonymous memory."""

    def __init__(self, agent: Agent, slot_bytes: int) -> None:
        self._memory = mmap.mmap(-1, SLOTS * slot_bytes)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8)
        super().__init__(agent, Place(int(self._bytes.ctypes.data), None), slot_bytes)

    def rows(self, slot: int, count: int, row_bytes: int) -> NDArray[np.uint8]:
        """The beginning of a slot as so many rows."""
        start = slot * self.slot_bytes
        return self._bytes[start : start + count * row_bytes].reshape(count, row_bytes)


class HostMemory:
    """That of this process."""

    device: int | None = None

    def use(self) -> None:
        """Every thread does."""

    def stage(self, agent: Agent, slot_bytes: int) -> HostStage:
        """In whole pages."""
        return HostStage(agent, slot_bytes)


class HostPacker:
    """For a pool of host memory."""

    checksum = Checksum.XXH3
    part_bytes = HOST_PART_BYTES

    def __init__(self, pool: HostPool, digest: Digest) -> None:
        self.slot_bytes = SLOT_BYTES
        self.memory = HostMemory()
        self._pool = pool
        self._digest = digest

    def prepare(self) -> None:
        """Nothing takes long."""

    def await_event(self, event: int, check: wire.Check) -> None:
        """There are none."""
        del event, check
        raise AssertionError("host memory has no events")

    def pack(self, stage: Stage, slot: int, portion: Portion, blocks: Indices, sums: Table, check: wire.Check) -> None:
        """Unit by unit."""
        assert isinstance(stage, HostStage)
        cut, rows = self._cut(portion), stage.rows(slot, blocks.size, portion.size)
        for unit, part in enumerate(units_of(blocks.size, portion.size)):
            check()
            data = cut.pick(blocks[part])
            sums[unit] = self._digest(data)
            rows[part] = data.view(np.uint8)

    def unpack(self, stage: Stage, slot: int, portion: Portion, blocks: Indices) -> None:
        """All at once."""
        assert isinstance(stage, HostStage)
        self._cut(portion).put(blocks, stage.rows(slot, blocks.size, portion.size))

    async def mismatches(self, blocks: Indices, checksums: bytes, layers: range | None, heads: Heads | None) -> Indices:
        """Hash what arrived."""
        return await asyncio.to_thread(mismatches, cut_from(self._pool, heads, layers), blocks, checksums)

    def close(self) -> None:
        """It has nothing."""

    def _cut(self, portion: Portion) -> Cut:
        return cut_of(self._pool.data, self._pool.layout, portion.way, portion.layers)
