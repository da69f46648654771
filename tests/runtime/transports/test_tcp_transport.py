"""What tcp alone promises: nobody writes without the key, into another pool, or after a revocation."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from pool_process import KEY, fill, layout_of

from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.protocol import Outcome, TransportError
from dynamoc.runtime.transports.tcp import TcpTransport

BLOCK = 4096
HOST = "127.0.0.1"


def announce(tag: int, count: int, **fields: int) -> bytes:
    said = wire.Header(
        tag, count, BLOCK, first_layer=0, end_layer=1, first_head=0, heads=1, all_heads=1, seconds_left=30.0
    )
    return wire.HEADER.pack(*said._replace(**fields))


def end(key: bytes = KEY, blocks: int = 16) -> tuple[TcpTransport, HostPool]:
    pool = HostPool(layout_of(BLOCK), blocks)
    fill(pool, blocks)
    transport = TcpTransport(key)
    transport.register(pool)
    return transport, pool


def test_another_key_is_refused_by_name() -> None:
    async def test() -> None:
        owner, owned = end()
        stranger, foreign = end(b"another key")
        await owner.start(HOST, 0)
        with pytest.raises(TransportError, match="the writer does not hold the run's key"):
            await stranger.connect(owner.metadata(), 2)
        await stranger.close()
        await owner.close()
        owned.close()
        foreign.close()

    asyncio.run(test())


def test_an_owner_that_came_back_with_another_pool_is_not_taken_for_the_old_one() -> None:
    async def test() -> None:
        first, old = end()
        port = await first.start(HOST, 0)
        assert port is not None
        stale = first.metadata()
        await first.close()
        second, new = end()
        assert await second.start(HOST, port) == port
        writer, source = end()
        with pytest.raises(TransportError, match="the pool that was offered is gone"):
            await writer.connect(stale, 2)
        for transport, pool in ((writer, source), (second, new)):
            await transport.close()
            pool.close()
        old.close()

    asyncio.run(test())


def test_an_owner_that_says_nothing_is_given_up() -> None:
    async def test() -> None:
        writer, source = end()
        with socket.create_server((HOST, 0)) as silent:
            owner, owned = end()
            await owner.start(HOST, 0)
            told = owner.metadata().replace(
                owner_port(owner).to_bytes(2, "big"), silent.getsockname()[1].to_bytes(2, "big")
            )
            with pytest.raises(TransportError, match="deadline passed"):
                await writer.connect(told, 0.3)
        for transport, pool in ((writer, source), (owner, owned)):
            await transport.close()
            pool.close()

    asyncio.run(test())


def owner_port(transport: TcpTransport) -> int:
    return transport._listening().address[1]


def test_revoking_ends_a_write_that_stalls_half_way() -> None:
    async def test() -> None:
        owner, owned = end()
        await owner.start(HOST, 0)
        owner.expect(5, [3])
        connection = await asyncio.to_thread(half_a_block, owner_port(owner), owned.nonce)
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2):
            assert await owner.revoke(5)
        owned.block(3)[:] = bytes(BLOCK)
        with connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
            await asyncio.to_thread(go_on_sending, connection)
        assert bytes(owned.block(3)) == bytes(BLOCK)
        await owner.close()
        owned.close()

    asyncio.run(test())


def half_a_block(port: int, nonce: bytes) -> socket.socket:
    """A writer that announces one block and sends half of it."""

    def patient() -> None:
        """Wait as long as it takes."""

    connection = socket.create_connection((HOST, port))
    connection.settimeout(5)
    wire.greet_as_writer(connection, KEY, nonce, patient)
    connection.sendall(announce(5, 1) + (3).to_bytes(4, "little"))
    wire.accept_answer(connection, patient)
    connection.sendall(b"\xff" * (BLOCK // 2))
    return connection


def go_on_sending(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"\xff" * BLOCK)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (announce(5, 1000), "do not fit my pool"),
        (announce(5, 1, row_bytes=BLOCK + 1), "do not fit my pool"),
        (announce(5, 1, row_bytes=0), "do not fit my pool"),
        (announce(5, 1, end_layer=2), "are no layers of 1"),
        (announce(5, 1, first_layer=1), "are no layers of 1"),
        (announce(5, 1, heads=2, all_heads=2), "another model"),
        (announce(5, 1, heads=0), "sends me anything"),
        (announce(5, 1, first_head=1), "sends me anything"),
        (announce(6, 1) + bytes(4), "transfer 6 is not expected"),
        (announce(5, 1) + (4).to_bytes(4, "little"), "names blocks that are not expected"),
        (announce(5, 2) + (3).to_bytes(4, "little") * 2, "names blocks that are not expected"),
        (announce(5, 1) + b"\xff" * 4, "names blocks that are not expected"),
    ],
)
def test_announcements_that_are_wrong_are_refused_with_a_reason(header: bytes, reason: str) -> None:
    async def test() -> None:
        owner, owned = end()
        await owner.start(HOST, 0)
        owner.expect(5, [3])
        before = bytes(owned.data)

        def send() -> None:
            with socket.create_connection((HOST, owner_port(owner))) as connection:
                connection.settimeout(5)
                wire.greet_as_writer(connection, KEY, owned.nonce, lambda: None)
                connection.sendall(header)
                wire.accept_answer(connection, lambda: None)

        with pytest.raises(TransportError, match=reason):
            await asyncio.to_thread(send)
        assert bytes(owned.data) == before
        await owner.close()
        owned.close()

    asyncio.run(test())


@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.1\r\n\r\n" * 20, b"\x00" * 64])
def test_garbage_on_the_port_harms_nobody(garbage: bytes) -> None:
    async def test() -> None:
        owner, owned = end()
        await owner.start(HOST, 0)
        with socket.create_connection((HOST, owner_port(owner))) as connection:
            connection.sendall(garbage)
        writer, source = end()
        peer = await writer.connect(owner.metadata(), 5)
        owner.expect(1, [0])
        completion = await writer.write(peer, BlockPairs.of([2], [0]), 5, 1).wait()

        assert completion.outcome is Outcome.SUCCESS, completion.reason
        assert owned.block(0) == source.block(2)
        for transport, pool in ((writer, source), (owner, owned)):
            await transport.close()
            pool.close()

    asyncio.run(test())


def test_expecting_what_cannot_be_is_an_error() -> None:
    async def test() -> None:
        owner, owned = end()
        with pytest.raises(TransportError, match="was not started"):
            owner.expect(1, [0])
        await owner.start(HOST, 0)
        owner.expect(1, [0])
        with pytest.raises(TransportError, match="already expected"):
            owner.expect(1, [1])
        with pytest.raises(TransportError, match="my pool has 16 blocks"):
            owner.expect(2, [16])
        await owner.close()
        owned.close()

    asyncio.run(test())
