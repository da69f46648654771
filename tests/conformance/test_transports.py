"""One suite over every transport: what moves must be right, and what cannot be moved is refused."""

from __future__ import annotations

import asyncio

import pytest
from pool_process import LIMIT_S, TestedPool, digests
from transport_rig import BLOCK, BLOCKS, MAPPED, Rig, push, shuffled, straight

from dynamoc.runtime.kv.transfer.pairs import BlockPairs, indices_of
from dynamoc.runtime.transports.protocol import Outcome, Transport, TransportError

LAYERS = 4


@pytest.mark.parametrize("pairs", [straight(BLOCKS), shuffled(BLOCKS), shuffled(1), shuffled(37)], ids=len)
def test_every_byte_arrives_where_it_belongs(rig: Rig, pairs: BlockPairs) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        owner = rig.peer()
        untouched = sorted(set(range(BLOCKS)) - set(pairs.destinations.tolist()))
        before = owner.ask("digests", blocks=untouched)
        peer = await transport.connect(owner.metadata, LIMIT_S)

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
            sent = await asyncio.to_thread(writer.ask, "write", **words, deadline_s=LIMIT_S, tag=1)
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
        peer = await transport.connect(rig.peer().metadata, LIMIT_S)
        with pytest.raises(TransportError, match="are no layers of 1"):
            transport.write(peer, straight(1), LIMIT_S, 1, layers)

    rig.run(test)


def test_no_pairs_are_a_success(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer()
        completion = await push(transport, owner, await transport.connect(owner.metadata, LIMIT_S), straight(0), tag=1)

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
        peer = await transport.connect(owner.metadata, LIMIT_S)

        with pytest.raises(TransportError, match=message):
            transport.write(peer, pairs, LIMIT_S, 1)

        assert owner.ask("digests", blocks=list(range(BLOCKS))) == before

    rig.run(test)


def test_many_small_blocks(rig: Rig) -> None:
    count = 60_000

    async def test(transport: Transport, pool: TestedPool) -> None:
        owner = rig.peer(256, count)
        pairs = shuffled(count)
        completion = await push(transport, owner, await transport.connect(owner.metadata, LIMIT_S), pairs, tag=1)

        assert completion.outcome is Outcome.SUCCESS, completion.reason
        arrived = owner.ask("digests", blocks=pairs.destinations.tolist())
        assert arrived == digests(pool, pairs.sources)

    rig.run(test, block=256, blocks=count)


def test_concurrent_transfers(rig: Rig) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        owner = rig.peer()
        peer = await transport.connect(owner.metadata, LIMIT_S)
        pairs = shuffled(BLOCKS)
        cuts = [slice(start, start + 8) for start in range(0, BLOCKS, 8)]
        parts = [BlockPairs(pairs.sources[cut], pairs.destinations[cut]) for cut in cuts]
        for tag, part in enumerate(parts):
            owner.ask("expect", tag=tag, blocks=part.destinations.tolist())

        transfers = [transport.write(peer, part, LIMIT_S, tag) for tag, part in enumerate(parts)]
        completions = await asyncio.gather(*(transfer.wait() for transfer in transfers))

        assert len(completions) == 64
        assert {completion.outcome for completion in completions} == {Outcome.SUCCESS}
        arrived = owner.ask("digests", blocks=pairs.destinations.tolist())
        assert arrived == digests(pool, pairs.sources)

    rig.run(test)


@pytest.mark.parametrize("garbage", [b"", b"\x93\x01\x02", b"not metadata at all"])
def test_garbage_metadata_are_refused(rig: Rig, garbage: bytes) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        with pytest.raises(TransportError, match=f"not {rig.name} metadata"):
            await transport.connect(garbage, LIMIT_S)

    rig.run(test)


def test_another_block_size_is_refused(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        with pytest.raises(TransportError, match="8192 bytes, mine 4096"):
            await transport.connect(rig.peer(block=8192).metadata, LIMIT_S)

    rig.run(test)


def test_what_is_not_expected_is_not_written(rig: Rig) -> None:
    if rig.name in MAPPED:
        pytest.skip("a mapping has no gatekeeper: the writer's word is what keeps blocks safe")

    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer()
        peer = await transport.connect(owner.metadata, LIMIT_S)
        before = owner.ask("digests", blocks=list(range(BLOCKS)))

        unknown = await transport.write(peer, straight(4), LIMIT_S, tag=9).wait()
        owner.ask("expect", tag=1, blocks=[0, 1])
        beyond = await transport.write(peer, straight(3), LIMIT_S, tag=1).wait()
        owner.ask("revoke", tag=1)
        revoked = await transport.write(peer, straight(2), LIMIT_S, tag=1).wait()

        assert [c.outcome for c in (unknown, beyond, revoked)] == [Outcome.FAILURE] * 3
        assert "transfer 9 is not expected" in unknown.reason
        assert "names blocks that are not expected" in beyond.reason
        assert "transfer 1 is not expected" in revoked.reason
        assert owner.ask("digests", blocks=list(range(BLOCKS))) == before

    rig.run(test)
