"""What a prefill worker says it wrote for one attempt: verified part by part, good only when all of it was named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from dynamoc.runtime.kv.transfer.pairs import Indices, indices_of
from dynamoc.runtime.plane.messages import WrittenLayers
from dynamoc.runtime.transports.protocol import Transport


class Arrivals:
    """The blocks of one attempt, `layers` layers each. Parts are verified while others are still computed."""

    def __init__(self, transport: Transport, blocks: Sequence[int], layers: int) -> None:
        self._transport = transport
        self._blocks = indices_of(blocks)
        self._written = np.zeros((len(blocks), layers), np.uint16)
        self._checks: list[asyncio.Task[Indices]] = []
        self._is_sane = True

    def add(self, parts: Sequence[WrittenLayers]) -> None:
        """Begin to verify what has arrived."""
        for part in parts:
            blocks, layers = range(part.first_block, part.first_block + part.blocks), range(part.first, part.end)
            if not self._has(blocks, layers):
                self._is_sane = False
                continue
            self._written[blocks.start : blocks.stop, layers.start : layers.stop] += 1
            check = self._check(self._blocks[blocks.start : blocks.stop], part.checksums, layers)
            self._checks.append(asyncio.get_running_loop().create_task(check))

    async def wrong(self) -> int:
        """How many blocks are not what was sent: all, unless every layer of every block was named exactly once."""
        # One after another: to wait for a check that has ended takes no turn of the event loop.
        found = [wrong for check in self._checks if (wrong := await check).size]
        if not self._is_sane or not (self._written == 1).all():
            return len(self._blocks)
        return int(np.unique(np.concatenate(found)).size) if found else 0

    async def close(self) -> None:
        """Wait until nobody looks at the blocks any more."""
        await asyncio.gather(*self._checks, return_exceptions=True)

    async def _check(self, blocks: Indices, checksums: bytes, layers: range) -> Indices:
        return await self._transport.mismatches(blocks, checksums, layers)

    def _has(self, blocks: range, layers: range) -> bool:
        rows, columns = self._written.shape
        return 0 <= blocks.start < blocks.stop <= rows and 0 <= layers.start < layers.stop <= columns
