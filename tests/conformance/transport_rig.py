"""What the suites over every transport share: a pool and a transport here, and peers in processes of their own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from pool_process import LIMIT_S, ON_GPU, Gate, Maker, PoolProcess, TestedPool, fill, layout_of, make_pool, read

from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports.protocol import Completion, Peer, Transport

BLOCK = 4096
BLOCKS = 512
MAPPED = ("shm", "nvlink")
"""Transports whose writer stores straight into the destination."""
LONG_BLOCK = (1 << 20) + 1  # an odd size: the slowest way to copy
LONG_BLOCKS = {"nvlink": 2048, "nixl_gpu": 2048}
"""A transfer of so many, or 48, can be met half way: by its gate, or because it takes long."""


@dataclass
class Processes:
    """Those of a module: one that no test harmed serves the next, since starting one takes longer than most tests."""

    here: Maker = field(default_factory=Maker)
    idle: dict[str, list[PoolProcess]] = field(default_factory=lambda: defaultdict(list))

    def take(self, variant: str) -> PoolProcess:
        return self.idle[variant].pop() if self.idle[variant] else PoolProcess()

    def give_back(self, variant: str, peer: PoolProcess) -> None:
        # A device's memory is exported again only by a new process: nothing says what its mappings did to the old.
        if variant not in ON_GPU and peer.is_usable:
            peer.ask("close")
            self.idle[variant].append(peer)
        else:
            peer.end()

    def end(self) -> None:
        for peer in itertools.chain.from_iterable(self.idle.values()):
            peer.end()


@dataclass
class Rig:
    """One transport in a test; `variant` also says between which memory."""

    variant: str
    processes: Processes
    peers: list[PoolProcess] = field(default_factory=list)
    gate: Gate = field(default_factory=Gate)

    @property
    def name(self) -> str:
        return self.variant.partition("_")[0]

    @property
    def long(self) -> int:
        return LONG_BLOCKS.get(self.variant, 48)

    def peer(self, block: int = BLOCK, blocks: int = BLOCKS, seed: int = 1, layers: int = 1) -> PoolProcess:
        made = self.processes.take(self.variant)
        self.peers.append(made)
        made.open(self.variant, block, blocks, seed, layers)
        return made

    def run(
        self,
        test: Callable[[Transport, TestedPool], Awaitable[None]],
        block: int = BLOCK,
        blocks: int = BLOCKS,
        layers: int = 1,
    ) -> None:
        """Run a test's coroutine with a transport over a pool of random bytes."""

        async def inside() -> None:
            pool = make_pool(self.variant, layout_of(block, layers), blocks, 0)
            fill(pool, 7)
            transport = await self.processes.here.start(self.variant, pool, self.gate)
            try:
                async with asyncio.timeout(4 * LIMIT_S):
                    await test(transport, pool)
            finally:
                self.gate.open()
                await transport.close()
                pool.close()

        asyncio.run(inside())

    async def half_way(self) -> None:
        """Until some of the transfer that began behind the shut gate has been sent."""
        if self.variant in ON_GPU:
            await asyncio.sleep(0.03)
        else:
            assert await asyncio.to_thread(self.gate.half_way.wait, LIMIT_S)

    async def arriving(self, pool: TestedPool, before: np.ndarray) -> None:
        """Until some of a transfer into this pool has arrived."""
        if self.variant in ON_GPU:
            await asyncio.sleep(0.05)  # reading so much memory of a device takes longer than the transfer
            return
        deadline = time.monotonic() + LIMIT_S
        while np.array_equal(read(pool), before):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    def end(self) -> None:
        for peer in self.peers:
            self.processes.give_back(self.variant, peer)


def shuffled(count: int, seed: int = 3) -> BlockPairs:
    return BlockPairs(*(np.random.default_rng(seed + side).permutation(count) for side in (0, 1)))


def straight(count: int) -> BlockPairs:
    return BlockPairs.of(range(count), range(count))


def whole(count: int) -> dict[str, object]:
    """What a peer's process is told to write: all layers of these blocks onto those of the same number."""
    return {"sources": list(range(count)), "destinations": list(range(count)), "layers": None}


async def push(
    transport: Transport, owner: PoolProcess, peer: Peer, pairs: BlockPairs, tag: int, deadline_s: float = LIMIT_S
) -> Completion:
    owner.ask("expect", tag=tag, blocks=pairs.destinations.tolist())
    return await transport.write(peer, pairs, deadline_s, tag).wait()
