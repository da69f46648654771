"""One suite over every transport: what moves must be right, and what did not move must be said."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pytest
from pool_process import (
    PoolProcess,
    TestedPool,
    digests,
    fill,
    flip,
    layout_of,
    make_pool,
    make_slow,
    missing,
)

from dynamoc.runtime.kv.transfer.pairs import BlockPairs, indices_of
from dynamoc.runtime.transports.protocol import Completion, Outcome, Peer, Transport, TransportError
from dynamoc.runtime.transports.registry import TRANSPORTS

BLOCK = 4096
BLOCKS = 512
LAYERS = 4
MAPPED = ("shm", "nvlink")
"""Transports whose writer stores straight into the destination."""
LONG_BLOCK = (1 << 20) + 1  # an odd size: the slowest way to copy
LONG_BLOCKS = {"nvlink": 2048}
"""A transfer of so many, or 512, takes long enough to be disturbed half way."""


@dataclass
class Rig:
    """This process with a pool and a transport, and peers in processes of their own."""

    name: str
    peers: list[PoolProcess] = field(default_factory=list)

    @property
    def long(self) -> int:
        return LONG_BLOCKS.get(self.name, 512)

    def peer(self, block: int = BLOCK, blocks: int = BLOCKS, seed: int = 1, layers: int = 1) -> PoolProcess:
        self.peers.append(PoolProcess(self.name, block, blocks, seed, layers))
        return self.peers[-1]

    def run(
        self,
        test: Callable[[Transport, TestedPool], Awaitable[None]],
        block: int = BLOCK,
        blocks: int = BLOCKS,
        layers: int = 1,
    ) -> None:
        """Run a test's coroutine with a transport over a pool of random bytes."""

        async def inside() -> None:
            pool = make_pool(self.name, layout_of(block, layers), blocks, 0)
            fill(pool, 7)
            transport = make_slow(self.name)
            transport.register(pool)
            await transport.start("127.0.0.1", 0)
            try:
                async with asyncio.timeout(60):
                    await test(transport, pool)
            finally:
                await transport.close()
                pool.close()

        asyncio.run(inside())


@pytest.fixture(params=sorted(TRANSPORTS))
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    if reason := missing(request.param):
        pytest.skip(reason)
    made = Rig(request.param)
    yield made
    for peer in made.peers:
        with suppress(BrokenPipeError):
            peer.end()


def shuffled(count: int, seed: int = 3) -> BlockPairs:
    return BlockPairs(*(np.random.default_rng(seed + side).permutation(count) for side in (0, 1)))


def straight(count: int) -> BlockPairs:
    return BlockPairs.of(range(count), range(count))


def whole(count: int) -> dict[str, object]:
    """What a peer's process is told to write: all layers of these blocks onto those of the same number."""
    return {"sources": list(range(count)), "destinations": list(range(count)), "layers": None}


async def push(
    transport: Transport, owner: PoolProcess, peer: Peer, pairs: BlockPairs, tag: int, deadline_s: float = 30
) -> Completion:
    owner.ask("expect", tag=tag, blocks=pairs.destinations.tolist())
    return await transport.write(peer, pairs, deadline_s, tag).wait()


@pytest.mark.parametrize("pairs", [straight(BLOCKS), shuffled(BLOCKS), shuffled(1), shuffled(37)], ids=len)
def test_every_byte_arrives_where_it_belongs(rig: Rig, pairs: BlockPairs) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        owner = rig.peer()
        untouched = sorted(set(range(BLOCKS)) - set(pairs.destinations.tolist()))
        before = owner.ask("digests", blocks=untouched)
        peer = await transport.connect(owner.metadata, 5)

        completion = await push(transport, owner, peer, pairs, tag=1)

        assert completion.outcome is Outcome.SUCCESS, completion.reason
        assert completion.moved_bytes == len(pairs) * BLOCK
        arrived = owner.ask("digests", blocks=pairs.destinations.tolist())
        assert arrived == digests(pool, pairs.sources)
        assert owner.ask("digests", blocks=untouched) == before

    rig.run(test)


def test_layers_may_come_in_several_writes(rig: Rig) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        writer = rig.peer(layers=LAYERS)
        assert await asyncio.to_thread(writer.ask, "connect", metadata=transport.metadata().hex()) == ""
        blocks = indices_of(range(1, BLOCKS, 2))
        sources = (blocks - 1).tolist()
        transport.expect(1, blocks.tolist())
        for first, end in ((2, 4), (0, 1), (1, 2)):
            words = {"sources": sources, "destinations": blocks.tolist(), "layers": [first, end]}
            sent = await asyncio.to_thread(writer.ask, "write", **words, deadline_s=10, tag=1)
            checksums, layers = bytes.fromhex(sent["checksums"]), range(first, end)

            assert sent["outcome"] == Outcome.SUCCESS, sent["reason"]
            assert sent["moved_bytes"] == blocks.size * BLOCK * (end - first) // LAYERS
            assert (await transport.mismatches(blocks, checksums, layers)).size == 0
            assert (await transport.mismatches(blocks, checksums, range(4))).size > 0

        theirs = await asyncio.to_thread(writer.ask, "digests", blocks=sources)
        assert digests(pool, blocks) == theirs

    rig.run(test, layers=LAYERS)


@pytest.mark.parametrize("layers", [range(1, 1), range(-1, 1), range(2), range(0, 3, 2)])
def test_layers_that_are_not_there_are_refused(rig: Rig, layers: range) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        peer = await transport.connect(rig.peer().metadata, 5)
        with pytest.raises(TransportError, match="are no layers of 1"):
            transport.write(peer, straight(1), 5, 1, layers)

    rig.run(test)


def test_no_pairs_are_a_success(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer()
        completion = await push(transport, owner, await transport.connect(owner.metadata, 5), straight(0), tag=1)

        assert (completion.outcome, completion.moved_bytes) == (Outcome.SUCCESS, 0)

    rig.run(test)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (BlockPairs.of([0, 1], [5, 5]), "named twice"),
        (BlockPairs.of([0], [BLOCKS]), f"destination block {BLOCKS} is outside"),
        (BlockPairs.of([BLOCKS], [0]), f"source block {BLOCKS} is outside"),
        (BlockPairs.of([-1], [0]), "source block -1 is outside"),
    ],
)
def test_wrong_pairs_are_rejected_and_write_nothing(rig: Rig, pairs: BlockPairs, message: str) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer()
        before = owner.ask("digests", blocks=list(range(BLOCKS)))
        peer = await transport.connect(owner.metadata, 5)

        with pytest.raises(TransportError, match=message):
            transport.write(peer, pairs, 5, 1)

        assert owner.ask("digests", blocks=list(range(BLOCKS))) == before

    rig.run(test)


def test_many_small_blocks(rig: Rig) -> None:
    count = 60_000

    async def test(transport: Transport, pool: TestedPool) -> None:
        owner = rig.peer(256, count)
        pairs = shuffled(count)
        completion = await push(transport, owner, await transport.connect(owner.metadata, 5), pairs, tag=1)

        assert completion.outcome is Outcome.SUCCESS, completion.reason
        arrived = owner.ask("digests", blocks=pairs.destinations.tolist())
        assert arrived == digests(pool, pairs.sources)

    rig.run(test, block=256, blocks=count)


def test_concurrent_transfers(rig: Rig) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        owner = rig.peer()
        peer = await transport.connect(owner.metadata, 5)
        pairs = shuffled(BLOCKS)
        cuts = [slice(start, start + 8) for start in range(0, BLOCKS, 8)]
        parts = [BlockPairs(pairs.sources[cut], pairs.destinations[cut]) for cut in cuts]
        for tag, part in enumerate(parts):
            owner.ask("expect", tag=tag, blocks=part.destinations.tolist())

        transfers = [transport.write(peer, part, 30, tag) for tag, part in enumerate(parts)]
        completions = await asyncio.gather(*(transfer.wait() for transfer in transfers))

        assert len(completions) == 64
        assert {completion.outcome for completion in completions} == {Outcome.SUCCESS}
        arrived = owner.ask("digests", blocks=pairs.destinations.tolist())
        assert arrived == digests(pool, pairs.sources)

    rig.run(test)


def test_cancel_before_during_and_after(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, 5)
        for tag, wait_s in ((1, 0.0), (2, 0.03)):
            owner.ask("expect", tag=tag, blocks=list(range(rig.long)))
            transfer = transport.write(peer, straight(rig.long), 30, tag)
            if wait_s:
                await asyncio.sleep(wait_s)
            transfer.cancel()
            transfer.cancel()
            asked_at = time.monotonic()
            completion = await transfer.wait()
            assert completion.outcome is Outcome.CANCELLED
            assert time.monotonic() - asked_at < 1
            assert completion.moved_bytes < rig.long * LONG_BLOCK

        owner.ask("expect", tag=3, blocks=[0, 1])
        transfer = transport.write(peer, straight(2), 30, 3)
        assert (await transfer.wait()).outcome is Outcome.SUCCESS
        transfer.cancel()
        assert (await transfer.wait()).outcome is Outcome.SUCCESS

    rig.run(test, LONG_BLOCK, rig.long)


def test_nothing_is_written_after_a_cancelled_write_was_revoked(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, 5)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        transfer = transport.write(peer, straight(rig.long), 30, 1)
        await asyncio.sleep(0.05)
        transfer.cancel()
        assert (await transfer.wait()).outcome is Outcome.CANCELLED
        owner.ask("revoke", tag=1)
        owner.ask("fill", seed=99)  # the blocks have a new user
        sentinels = owner.ask("digests", blocks=list(range(rig.long)))

        await asyncio.sleep(0.3)

        assert owner.ask("digests", blocks=list(range(rig.long))) == sentinels

    rig.run(test, LONG_BLOCK, rig.long)


def test_a_deadline_ends_a_transfer_by_itself(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, 5)

        started = time.monotonic()
        completion = await push(transport, owner, peer, straight(rig.long), tag=1, deadline_s=0.03)

        assert completion.outcome is Outcome.FAILURE
        assert "not finished within 0.030 s" in completion.reason
        assert time.monotonic() - started < 2

    rig.run(test, LONG_BLOCK, rig.long)


@pytest.mark.parametrize("after_s", [0.0, 0.05])
def test_a_killed_owner_is_a_failure(rig: Rig, after_s: float) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, 5)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        if not after_s:
            owner.send_signal(signal.SIGKILL)
        transfer = transport.write(peer, straight(rig.long), 30, 1)
        await asyncio.sleep(after_s)
        owner.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        completion = await transfer.wait()

        assert completion.outcome is Outcome.FAILURE
        assert completion.reason
        assert time.monotonic() - killed_at < 2

    rig.run(test, LONG_BLOCK, rig.long)


def test_a_killed_writer_is_seen_and_its_blocks_become_safe(rig: Rig) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        writer = rig.peer(LONG_BLOCK, rig.long)
        assert await asyncio.to_thread(writer.ask, "connect", metadata=transport.metadata().hex()) == ""
        transport.expect(1, range(rig.long))
        writer.tell("write", **whole(rig.long), deadline_s=30, tag=1)
        await asyncio.sleep(0.05)
        assert writer.writer == b"" or not transport.writer_gone(writer.writer)
        writer.send_signal(signal.SIGKILL)

        safe = await transport.revoke(1) or transport.writer_gone(writer.writer)

        assert safe
        fill(pool, 99)
        sentinels = digests(pool, range(rig.long))
        await asyncio.sleep(0.2)
        assert digests(pool, range(rig.long)) == sentinels

    rig.run(test, LONG_BLOCK, rig.long)


def test_a_stopped_owner_never_makes_a_transfer_hang(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, 5)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        owner.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        completion = await transport.write(peer, straight(rig.long), 3, 1).wait()
        took = time.monotonic() - started
        owner.send_signal(signal.SIGCONT)

        # A mapping works without its owner; a stream does not.
        expected = Outcome.SUCCESS if rig.name in MAPPED else Outcome.FAILURE
        assert completion.outcome is expected, completion.reason
        assert took < 4

    rig.run(test, LONG_BLOCK, rig.long)


def test_a_stopped_writer_is_not_gone(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        writer = rig.peer()
        assert await asyncio.to_thread(writer.ask, "connect", metadata=transport.metadata().hex()) == ""
        transport.expect(1, range(BLOCKS))
        writer.send_signal(signal.SIGSTOP)

        revoked = await transport.revoke(1)

        assert revoked or not transport.writer_gone(writer.writer)
        writer.send_signal(signal.SIGKILL)
        assert transport.writer_gone(writer.writer)

    rig.run(test)


def test_metadata_of_an_ended_process_are_refused(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer()
        owner.send_signal(signal.SIGKILL)

        with pytest.raises(TransportError, match=r"cannot be mapped|cannot reach"):
            await transport.connect(owner.metadata, 2)

    rig.run(test)


@pytest.mark.parametrize("garbage", [b"", b"\x93\x01\x02", b"not metadata at all"])
def test_garbage_metadata_are_refused(rig: Rig, garbage: bytes) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        with pytest.raises(TransportError, match=f"not {rig.name} metadata"):
            await transport.connect(garbage, 2)

    rig.run(test)


def test_another_block_size_is_refused(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        with pytest.raises(TransportError, match="8192 bytes, mine 4096"):
            await transport.connect(rig.peer(block=8192).metadata, 2)

    rig.run(test)


def test_what_is_not_expected_is_not_written(rig: Rig) -> None:
    if rig.name in MAPPED:
        pytest.skip("a mapping has no gatekeeper: the writer's word is what keeps blocks safe")

    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer()
        peer = await transport.connect(owner.metadata, 5)
        before = owner.ask("digests", blocks=list(range(BLOCKS)))

        unknown = await transport.write(peer, straight(4), 5, tag=9).wait()
        owner.ask("expect", tag=1, blocks=[0, 1])
        beyond = await transport.write(peer, straight(3), 5, tag=1).wait()
        owner.ask("revoke", tag=1)
        revoked = await transport.write(peer, straight(2), 5, tag=1).wait()

        assert [c.outcome for c in (unknown, beyond, revoked)] == [Outcome.FAILURE] * 3
        assert "transfer 9 is not expected" in unknown.reason
        assert "names blocks that are not expected" in beyond.reason
        assert "transfer 1 is not expected" in revoked.reason
        assert owner.ask("digests", blocks=list(range(BLOCKS))) == before

    rig.run(test)


def test_a_flipped_bit_is_found_by_its_checksum(rig: Rig) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        writer = rig.peer()
        assert await asyncio.to_thread(writer.ask, "connect", metadata=transport.metadata().hex()) == ""
        transport.expect(1, range(BLOCKS))
        sent = await asyncio.to_thread(writer.ask, "write", **whole(BLOCKS), deadline_s=10, tag=1)
        checksums = bytes.fromhex(sent["checksums"])
        blocks = indices_of(range(BLOCKS))

        assert (await transport.mismatches(blocks, checksums)).size == 0
        flip(pool, 41, BLOCK - 1)
        assert 41 in await transport.mismatches(blocks, checksums)
        assert np.array_equal(await transport.mismatches(blocks, checksums[8:]), blocks)

    rig.run(test)


def test_a_closed_peer_fails_what_runs(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, 5)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        transfer = transport.write(peer, straight(rig.long), 30, 1)
        await asyncio.sleep(0.03)
        peer.close()

        assert (await transfer.wait()).outcome is Outcome.FAILURE
        late = transport.write(peer, straight(1), 5, 1)
        assert (await late.wait()).outcome is Outcome.FAILURE

    rig.run(test, LONG_BLOCK, rig.long)


def test_closing_waits_until_nothing_writes(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, 5)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        transfer = transport.write(peer, straight(rig.long), 30, 1)
        await asyncio.sleep(0.03)
        await transport.close()

        assert (await transfer.wait()).outcome is Outcome.CANCELLED

    rig.run(test, LONG_BLOCK, rig.long)
