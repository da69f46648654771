"""What arrived in a pool of device memory, summed where it is and compared with what the writer summed on the way."""

from __future__ import annotations

import asyncio

import numpy as np

from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.cuda.device import PAUSE_S, SPIN_S, DeviceError
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.transfer.checksums import Table
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.shards import Portion, portion_from

LIMIT_S = 10.0


class DeviceSums:
    """Used from the event loop, which polls: the hand-over of a prompt waits for no other thread."""

    def __init__(self, pool: DevicePool, copier: Copier) -> None:
        self._pool = pool
        self._copier = copier

    async def mismatches(self, blocks: Indices, checksums: bytes, layers: range | None, heads: Heads | None) -> Indices:
        """As `Transport.mismatches`; TransportError if the device does not say."""
        portion = portion_from(self._pool, heads, layers)
        if len(checksums) != 16 * blocks.size:
            return blocks
        try:
            sums = await self._sum(blocks, portion)
        except (DeviceError, TimeoutError) as error:
            raise TransportError(f"what arrived cannot be verified: {error}") from error
        wrong = (sums != np.frombuffer(checksums, "<u8").reshape(-1, 2)).any(axis=1)
        return blocks[np.flatnonzero(wrong)]

    def close(self) -> None:
        """Wait for what runs, and release everything."""
        self._copier.close()

    async def _sum(self, blocks: Indices, portion: Portion) -> Table:
        loop = asyncio.get_running_loop()
        began = loop.time()
        runs = Runs(self._pool.address, self._pool.layout.block_bytes, blocks.astype(np.uint64))
        if portion.way is None:
            runs = runs._replace(base=runs.base + portion.span.start)
            summed = self._copier.sum(runs, portion.size, deadline_s=LIMIT_S)
        else:
            summed = self._copier.sum_slices(portion.way, runs, deadline_s=LIMIT_S)
        while not summed.is_done():
            waited = loop.time() - began
            if waited > LIMIT_S:
                raise TimeoutError(f"the device did not finish within {LIMIT_S:g} s")
            await asyncio.sleep(0 if waited < SPIN_S else PAUSE_S)
        assert summed.sums is not None
        return summed.sums
