"""Who gets into the plane."""

from __future__ import annotations

import asyncio
import socket

import pytest
from plane_kit import (
    CLIENT,
    HERE,
    KEY,
    SERVER,
    Ear,
    connected,
    frame,
    hung_up,
    listening,
    recorder,
    stranger,
)

from dynamoc.runtime.plane import connection as plane
from dynamoc.runtime.plane.connection import PlaneError, dial, listen


def test_both_sides_learn_who_the_other_is() -> None:
    async def main() -> None:
        async with connected() as (client, _, served, _):
            assert client.peer == SERVER
            assert served.peer == CLIENT
            assert client.is_open
            assert served.is_open

    asyncio.run(main())


@pytest.mark.parametrize("wrong", ["client", "server"])
def test_who_lacks_the_key_gets_nowhere(wrong: str) -> None:
    async def main() -> None:
        async with listening() as (_, ear):
            keys = (KEY, b"x" * 32) if wrong == "server" else (b"x" * 32, KEY)
            other = await listen(HERE, 0, SERVER, keys[1], ear)
            with pytest.raises(PlaneError, match="cannot reach"):
                await dial(HERE, other.port, CLIENT, keys[0], Ear())
            assert not ear.connections
            await other.close()

    asyncio.run(main())


def test_a_server_that_does_not_know_the_key_learns_no_message() -> None:
    """It may accept anyone: the client does not believe its welcome."""

    async def main() -> None:
        heard = bytearray()

        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(frame(plane._encode(plane._Challenge(plane.PROTOCOL_VERSION, b"n" * 16))))
            heard.extend(await reader.readexactly(4))
            heard.extend(await reader.readexactly(int.from_bytes(heard, "little")))
            writer.write(frame(plane._encode(plane._Welcome(SERVER, b"p" * 32))))
            heard.extend(await reader.read())
            writer.close()

        server = await asyncio.start_server(impostor, HERE, 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PlaneError, match="does not hold the run's key"):
            await dial(HERE, port, CLIENT, KEY, Ear())
        assert KEY not in heard
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_a_recorded_handshake_opens_nothing_a_second_time() -> None:
    async def main() -> None:
        async with listening() as (server, ear):
            async with recorder(server.port) as (port, recording):
                client = await dial(HERE, port, CLIENT, KEY, Ear())
                assert len(ear.connections) == 1
                client.abort("done")
                await ear.end()
            async with stranger(server.port) as (reader, writer):
                writer.write(bytes(recording))
                assert await hung_up(reader)
            assert len(ear.connections) == 1

    asyncio.run(main())


def test_another_version_of_the_plane_is_refused() -> None:
    async def main() -> None:
        async def newer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(frame(plane._encode(plane._Challenge(99, b"n" * 16))))
            writer.close()

        server = await asyncio.start_server(newer, HERE, 0)
        with pytest.raises(PlaneError, match="version 99"):
            await dial(HERE, server.sockets[0].getsockname()[1], CLIENT, KEY, Ear())
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_nobody_there_and_nobody_answering_are_said_in_time() -> None:
    async def main() -> None:
        with socket.create_server((HERE, 0)) as mute:
            port = mute.getsockname()[1]
            with pytest.raises(PlaneError, match=r"no answer within 0\.2 s"):
                await dial(HERE, port, CLIENT, KEY, Ear(), deadline_s=0.2)
        with pytest.raises(PlaneError, match=f"cannot reach {HERE}:{port}"):
            await dial(HERE, port, CLIENT, KEY, Ear())

    asyncio.run(main())


def test_a_dial_that_is_cancelled_leaves_no_connection() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server((HERE, 0)) as mute:
            mute.setblocking(False)
            task = asyncio.create_task(dial(HERE, mute.getsockname()[1], CLIENT, KEY, Ear()))
            accepted, _ = await loop.sock_accept(mute)
            with accepted:
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await asyncio.wait_for(loop.sock_recv(accepted, 1), 1) == b""

    asyncio.run(main())


def test_who_does_not_finish_the_handshake_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "HANDSHAKE_LIMIT_S", 0.2)

    async def main() -> None:
        async with listening() as (server, ear), stranger(server.port) as (reader, _):
            assert await hung_up(reader, 2)
            assert not ear.connections

    asyncio.run(main())


def test_only_the_address_asked_for_is_bound() -> None:
    async def main() -> None:
        async with listening() as (server, _):
            assert [sock.getsockname()[0] for sock in server._server.sockets] == [HERE]

    asyncio.run(main())
