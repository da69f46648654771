"""One suite over every transport: whatever is killed, stopped or cut half way, what did not move is said."""

from __future__ import annotations

import asyncio
import signal

import numpy as np
import pytest
from pool_process import LIMIT_S, TestedPool, digests, fill, flip, read
from transport_rig import BLOCK, BLOCKS, LONG_BLOCK, MAPPED, Rig, push, straight, whole

from dynamoc.runtime.kv.transfer.pairs import indices_of
from dynamoc.runtime.transports.protocol import Outcome, Transport, TransportError


def test_cancel_before_during_and_after(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, LIMIT_S)
        for tag, begun in ((1, False), (2, True)):
            rig.gate.shut()
            owner.ask("expect", tag=tag, blocks=list(range(rig.long)))
            transfer = transport.write(peer, straight(rig.long), LIMIT_S, tag)
            if begun:
                await rig.half_way()
            transfer.cancel()
            transfer.cancel()
            rig.gate.open()
            completion = await transfer.wait()
            assert completion.outcome is Outcome.CANCELLED
            assert completion.moved_bytes < rig.long * LONG_BLOCK

        owner.ask("expect", tag=3, blocks=[0, 1])
        transfer = transport.write(peer, straight(2), LIMIT_S, 3)
        assert (await transfer.wait()).outcome is Outcome.SUCCESS
        transfer.cancel()
        assert (await transfer.wait()).outcome is Outcome.SUCCESS

    rig.run(test, LONG_BLOCK, rig.long)


def test_nothing_is_written_after_a_cancelled_write_was_revoked(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, LIMIT_S)
        rig.gate.shut()
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        transfer = transport.write(peer, straight(rig.long), LIMIT_S, 1)
        await rig.half_way()
        transfer.cancel()
        rig.gate.open()
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
        peer = await transport.connect(owner.metadata, LIMIT_S)
        rig.gate.shut()

        completion = await push(transport, owner, peer, straight(rig.long), tag=1, deadline_s=0.03)

        assert completion.outcome is Outcome.FAILURE
        assert "not finished within 0.030 s" in completion.reason

    rig.run(test, LONG_BLOCK, rig.long)


@pytest.mark.parametrize("begun", [False, True])
def test_a_killed_owner_is_a_failure(rig: Rig, begun: bool) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, LIMIT_S)
        rig.gate.shut()
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        if not begun:
            owner.send_signal(signal.SIGKILL)
        transfer = transport.write(peer, straight(rig.long), LIMIT_S, 1)
        if begun:
            await rig.half_way()
            owner.send_signal(signal.SIGKILL)
        rig.gate.open()
        completion = await transfer.wait()

        assert completion.outcome is Outcome.FAILURE
        assert completion.reason
        assert "not finished within" not in completion.reason

    rig.run(test, LONG_BLOCK, rig.long)


def test_a_killed_writer_is_seen_and_its_blocks_become_safe(rig: Rig) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        writer = rig.peer(LONG_BLOCK, rig.long)
        before = read(pool)
        assert await asyncio.to_thread(writer.ask, "connect", metadata=transport.metadata().hex()) == ""
        writer.ask("shut")
        transport.expect(1, range(rig.long))
        writer.tell("write", **whole(rig.long), deadline_s=LIMIT_S, tag=1)
        await rig.arriving(pool, before)
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
    is_mapped = rig.name in MAPPED  # a mapping works without its owner; a stream does not

    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, LIMIT_S)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        owner.send_signal(signal.SIGSTOP)
        completion = await transport.write(peer, straight(rig.long), LIMIT_S if is_mapped else 0.3, 1).wait()

        assert completion.outcome is (Outcome.SUCCESS if is_mapped else Outcome.FAILURE), completion.reason

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
            await transport.connect(owner.metadata, LIMIT_S)

    rig.run(test)


def test_a_flipped_bit_is_found_by_its_checksum(rig: Rig) -> None:
    async def test(transport: Transport, pool: TestedPool) -> None:
        writer = rig.peer()
        assert await asyncio.to_thread(writer.ask, "connect", metadata=transport.metadata().hex()) == ""
        transport.expect(1, range(BLOCKS))
        sent = await asyncio.to_thread(writer.ask, "write", **whole(BLOCKS), deadline_s=LIMIT_S, tag=1)
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
        peer = await transport.connect(owner.metadata, LIMIT_S)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        rig.gate.shut()
        transfer = transport.write(peer, straight(rig.long), LIMIT_S, 1)
        await rig.half_way()
        peer.close()
        rig.gate.open()

        assert (await transfer.wait()).outcome is Outcome.FAILURE
        late = transport.write(peer, straight(1), LIMIT_S, 1)
        assert (await late.wait()).outcome is Outcome.FAILURE

    rig.run(test, LONG_BLOCK, rig.long)


def test_closing_waits_until_nothing_writes(rig: Rig) -> None:
    async def test(transport: Transport, _: TestedPool) -> None:
        owner = rig.peer(LONG_BLOCK, rig.long)
        peer = await transport.connect(owner.metadata, LIMIT_S)
        owner.ask("expect", tag=1, blocks=list(range(rig.long)))
        rig.gate.shut()
        transfer = transport.write(peer, straight(rig.long), LIMIT_S, 1)
        await rig.half_way()
        closing = asyncio.ensure_future(transport.close())
        await asyncio.sleep(0)
        rig.gate.open()
        await closing

        assert (await transfer.wait()).outcome is Outcome.CANCELLED

    rig.run(test, LONG_BLOCK, rig.long)
