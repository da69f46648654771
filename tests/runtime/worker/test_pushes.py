"""Prompts pushed part by part over real transports: all of it arrives once, is verified, and stops when told to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.sequence import Chunk, Step
from dynamoc.runtime.engines.native.sequence import Sequence as Prompt
from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.plane.messages import PrefillRequest, Sampling, WrittenLayers
from dynamoc.runtime.transports.protocol import Peer, Transport
from dynamoc.runtime.transports.registry import make_transport
from dynamoc.runtime.worker.arrivals import Arrivals
from dynamoc.runtime.worker.pushes import Pace, Pushes
from dynamoc.runtime.worker.telemetry import Telemetry

LAYOUT = KvLayout(layers=8, heads=2, head_dim=64, block_size=4, dtype="float32", item_bytes=4)
"""32 KiB a block: prompts of more than 32 blocks are pushed in groups."""
KEY = b"k" * 32
LIMIT_S = 20.0


class Ends:
    """Both ends of a transport, and a prompt of `count` blocks from one pool to shuffled blocks of the other."""

    def __init__(self, source: Transport, target: Transport, pools: tuple[HostPool, HostPool], peer: Peer) -> None:
        self.source, self.target, self.pools, self.peer = source, target, pools, peer
        self.metrics = Metrics()
        self.told: list[WrittenLayers] = []
        self.generation = 0

    def pushes(self, blocks: Sequence[int], first_block: int = 0, limit_s: float = LIMIT_S) -> Pushes:
        self.generation += 1
        self.target.expect(self.generation, blocks)
        request = PrefillRequest(1, self.generation, b"", Sampling(max_tokens=1), first_block, tuple(blocks), limit_s)
        expires_at, telemetry = asyncio.get_running_loop().time() + limit_s, Telemetry(self.metrics, self.source.name)
        made = Pushes(self.source, LAYOUT, request, lambda: self.peer, expires_at, Pace(), telemetry)
        made.on_arrived = self.told.append
        return made

    def sample(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"transport": self.source.name}) or 0.0


@asynccontextmanager
async def connected(transport: str, blocks: int) -> AsyncIterator[Ends]:
    pools = HostPool(LAYOUT, blocks), HostPool(LAYOUT, blocks)
    source, target = make_transport(transport, KEY), make_transport(transport, KEY)
    source.register(pools[0])
    target.register(pools[1])
    await target.start("127.0.0.1", 0)
    pools[0].data[:] = os.urandom(pools[0].data_bytes)
    peer = await source.connect(target.metadata(), LIMIT_S)
    try:
        yield Ends(source, target, pools, peer)
    finally:
        peer.close()
        await source.close()
        await target.close()
        for pool in pools:
            pool.close()


def steps(count: int, cuts: set[int], on_written: Callable[[Written], None]) -> None:
    """A prompt of `count` blocks computed in chunks that end at `cuts` tokens, told as engines tell it."""
    size = LAYOUT.block_size
    prompt = Prompt(1, [1] * (count * size), count * size, Sampling(max_tokens=1), hold_kv=True)
    prompt.blocks = list(range(count))
    start = 0
    for end in [*sorted(cut for cut in cuts if cut < count * size), count * size]:
        step = Step((Chunk(prompt, start, end - start, sample=end == count * size),))
        progress = StepProgress(step, LAYOUT.layers, size, on_written)
        for layer in sorted(progress.ends):
            progress.reached(layer)
        start = end


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 80),
    resident=st.integers(0, 30),
    cuts=st.sets(st.integers(1, 320), max_size=4),
    part_bytes=st.sampled_from([32 << 10, 300_000, 8 << 20]),
    order=st.randoms(use_true_random=False),
)
def test_every_layer_of_every_block_arrives_once(
    transport: str, count: int, resident: int, cuts: set[int], part_bytes: int, order
):
    resident = min(resident, count - 1)
    destinations = order.sample(range(80), count - resident)

    async def test() -> None:
        async with asyncio.timeout(LIMIT_S), connected(transport, 80) as ends:
            ends.pools[1].data[:] = b"\xa5" * ends.pools[1].data_bytes
            ends.source.part_bytes = part_bytes
            pushes = ends.pushes(destinations, resident)
            steps(count, cuts, pushes.written)
            await pushes.settle()

            assert pushes.failure == ""
            assert pushes.complete == count - resident
            assert pushes.moved_bytes == (count - resident) * LAYOUT.block_bytes
            cells = [
                (block, layer)
                for part in ends.told
                for block in range(part.first_block, part.first_block + part.blocks)
                for layer in range(part.first, part.end)
            ]
            assert sorted(cells) == [(b, n) for b in range(count - resident) for n in range(LAYOUT.layers)]
            arrivals = Arrivals(ends.target, destinations, LAYOUT.layers)
            arrivals.add(ends.told)
            assert await arrivals.wrong() == 0
            for position, block in enumerate(destinations):
                assert ends.pools[1].block(block) == ends.pools[0].block(resident + position)
            untouched = set(range(80)) - set(destinations)
            assert all(bytes(ends.pools[1].block(b)) == b"\xa5" * LAYOUT.block_bytes for b in untouched)
            assert await ends.target.revoke(ends.generation) in (True, False)

    asyncio.run(test())


def test_much_is_pushed_before_all_of_it_is_computed():
    async def test() -> None:
        async with asyncio.timeout(LIMIT_S), connected("shm", 80) as ends:
            pushes = ends.pushes(range(80))
            groups: list[Written] = []
            steps(80, {160}, groups.append)
            for written in groups[:-1]:
                pushes.written(written)
            while len(ends.told) < len(groups) - 1:
                await asyncio.sleep(0.001)
            assert pushes.complete == 40, "the first chunk's blocks, the last layer of the others is missing"
            pushes.written(groups[-1])
            await pushes.settle()

            assert len(ends.told) == len(groups)
            assert {(part.first_block, part.blocks) for part in ends.told} == {(0, 40), (40, 40)}
            assert ends.sample("dynamoc_kv_transfer_exposed_seconds_count") == 1
            assert 0 < ends.sample("dynamoc_kv_transfer_exposed_seconds_sum") < 5

    asyncio.run(test())


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_what_is_all_there_is_told_of_in_parts(transport: str):
    async def test() -> None:
        async with asyncio.timeout(LIMIT_S), connected(transport, 80) as ends:
            ends.source.part_bytes = 16 * LAYOUT.block_bytes
            pushes, order = ends.pushes(range(79, -1, -1)), tuple(range(80))
            pushes.written(Written(1, 0, order, range(LAYOUT.layers), None))
            await pushes.settle()

            assert sorted((part.first_block, part.blocks) for part in ends.told) == [(16 * n, 16) for n in range(5)]
            assert {(part.first, part.end) for part in ends.told} == {(0, LAYOUT.layers)}
            assert (pushes.complete, pushes.moved_bytes) == (80, ends.pools[0].data_bytes)
            assert 0 < pushes.age_s < LIMIT_S
            arrivals = Arrivals(ends.target, range(79, -1, -1), LAYOUT.layers)
            arrivals.add(ends.told)
            assert await arrivals.wrong() == 0
            assert ends.sample("dynamoc_kv_transfer_exposed_seconds_count") == 1, "one prompt, however many parts"

    asyncio.run(test())


def test_nothing_is_written_once_it_has_stopped():
    async def test() -> None:
        async with asyncio.timeout(LIMIT_S), connected("shm", 80) as ends:
            pushes = ends.pushes(range(80))
            groups: list[Written] = []
            steps(80, set(), groups.append)
            pushes.written(groups[0])
            pushes.stop()
            await pushes.settle()
            ends.pools[1].data[:] = b"\xa5" * ends.pools[1].data_bytes
            for written in groups[1:]:
                pushes.written(written)
            await pushes.settle()
            await asyncio.sleep(0.05)

            assert bytes(ends.pools[1].data) == b"\xa5" * ends.pools[1].data_bytes
            assert pushes.failure == ""
            assert ends.sample("dynamoc_kv_transfer_exposed_seconds_count") == 0

    asyncio.run(test())


def test_a_peer_that_is_gone_is_a_failure_said_once():
    async def test() -> None:
        async with asyncio.timeout(LIMIT_S), connected("shm", 80) as ends:
            pushes, failed = ends.pushes(range(80)), []
            pushes.on_failed = lambda: failed.append(pushes.failure)
            ends.peer.close()
            steps(80, {100}, pushes.written)
            await pushes.settle()

            assert len(failed) == 1
            assert failed[0].startswith("transfer failed: ")

    asyncio.run(test())


@pytest.mark.parametrize("wrong", ["missing", "twice", "beyond", "flipped", "unsummed"])
def test_what_does_not_add_up_is_not_taken(wrong: str):
    async def test() -> None:
        async with asyncio.timeout(LIMIT_S), connected("shm", 80) as ends:
            pushes = ends.pushes(range(80))
            steps(80, set(), pushes.written)
            await pushes.settle()
            parts = sorted(ends.told, key=lambda part: part.first)
            if wrong == "flipped":
                ends.pools[1].block(33)[LAYOUT.layer_bytes] ^= 1
            first = parts[0]
            parts = {
                "missing": parts[1:],
                "twice": [*parts, first],
                "beyond": [*parts, WrittenLayers(7, 9, 0, 1, b"")],
                "flipped": parts,
                "unsummed": [WrittenLayers(first.first, first.end, 0, 80, first.checksums[:-8]), *parts[1:]],
            }[wrong]
            arrivals = Arrivals(ends.target, range(80), LAYOUT.layers)
            arrivals.add(parts)
            found = await arrivals.wrong()

            # One wrong bit condemns all that shares its checksum, and no more.
            assert 0 < found < 80 if wrong == "flipped" else found == 80

    asyncio.run(test())
