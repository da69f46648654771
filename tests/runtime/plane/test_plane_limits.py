"""Who is cut off from the plane."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_examples import EXAMPLES
from plane_kit import (
    CLIENT,
    HERE,
    KEY,
    Ear,
    connected,
    frame,
    hung_up,
    listening,
    stranger,
)

from dynamoc.runtime.plane import connection as plane
from dynamoc.runtime.plane import messages as m
from dynamoc.runtime.plane.connection import Connection, PlaneError, dial


def test_a_frame_that_is_too_large_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MAX_FRAME_BYTES", 1000)

    async def main() -> None:
        async with connected() as (client, _, _, server_ear):
            client.send(m.AttachPool("tcp", b"x" * 900, ""))
            assert isinstance(await server_ear.hear(), m.AttachPool)
            client.send(m.AttachPool("tcp", b"x" * 1001, ""))
            assert "frame of" in await server_ear.end()
            assert server_ear.messages.empty()

    asyncio.run(main())


def test_a_stranger_cannot_make_us_wait_for_a_large_frame() -> None:
    async def main() -> None:
        async with listening() as (server, ear), stranger(server.port) as (reader, writer):
            writer.write((4097).to_bytes(4, "little"))
            assert await hung_up(reader, 1)  # well before the handshake's own limit
            assert not ear.connections

    asyncio.run(main())


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x93\x01",
        b"\x91\xa4Nope",
        b"\x92\xa6Cancel\xa1x",
        b"\x92\xa6Cancel\xc0",
        b"\x91" * 5000,
        b"\x91\xa2\xff\xff",
    ],
)
def test_a_message_nobody_understands_ends_the_connection(payload: bytes) -> None:
    async def main() -> None:
        async with connected() as (client, _, _, server_ear):
            client.send_encoded(payload)
            assert "undecodable message from decode-0" in await server_ear.end()
            assert server_ear.messages.empty()

    asyncio.run(main())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.booleans())
def test_garbage_from_a_stranger_opens_nothing(chunks: list[bytes], framed: bool) -> None:
    async def main() -> None:
        async with listening() as (server, ear):
            async with stranger(server.port) as (_, writer):
                for chunk in chunks:
                    writer.write(frame(chunk) if framed else chunk)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0.001)
            client = await dial(HERE, server.port, CLIENT, KEY, Ear())
            client.send(m.Draining())
            assert await ear.hear() == m.Draining()
            assert len(ear.connections) == 1

    asyncio.run(main())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_broken_messages_of_a_member_end_its_connection_and_no_other(data: st.DataObject) -> None:
    original = plane._encode(data.draw(st.sampled_from(EXAMPLES)))
    position = data.draw(st.integers(0, min(len(original), 300) - 1))
    middle = data.draw(st.binary(max_size=3))
    payload = original[:position] + middle + original[position + data.draw(st.integers(0, 3)) :]

    async def main() -> None:
        async with connected() as (client, _, _, server_ear):
            client.send_encoded(payload)
            with contextlib.suppress(PlaneError):
                client.send(m.Draining())
            if payload:
                ended = asyncio.create_task(server_ear.end())
                heard = asyncio.create_task(server_ear.hear())
                await asyncio.wait({ended, heard}, return_when=asyncio.FIRST_COMPLETED)
                if heard.done():
                    assert isinstance(heard.result(), m.Message)
                else:
                    assert "undecodable" in ended.result()
                for task in (ended, heard):
                    task.cancel()

    asyncio.run(main())


async def flood(connection: Connection, limit_bytes: int) -> None:
    for _ in range(limit_bytes >> 16):
        connection.send(m.AttachPool("tcp", bytes(1 << 16), ""))
        await asyncio.sleep(0)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_peer_that_does_not_read_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr(plane, "MAX_UNSENT_BYTES", 1 << 20)

    async def main() -> None:
        async with connected() as (client, _, served, server_ear):
            assert client._transport is not None
            client._transport.pause_reading()
            with pytest.raises(PlaneError, match="does not read"):
                await flood(served, 64 << 20)
            assert "does not read" in await server_ear.end(1)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_heartbeats_keep_an_idle_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(plane, "SILENCE_LIMIT_S", 0.5)

    async def main() -> None:
        async with connected() as (client, _, served, _):
            await asyncio.sleep(1.2)
            assert client.is_open
            assert served.is_open

    asyncio.run(main())


MEMBER = """
import asyncio, sys
from dynamoc.runtime.plane.connection import Identity, dial

class Quiet:
    def opened(self, connection): print("in", flush=True)
    def received(self, connection, message): pass
    def closed(self, connection, reason): sys.exit(3)

async def main():
    await dial("127.0.0.1", int(sys.argv[1]), Identity("decode-0", "decode"), bytes.fromhex(sys.argv[2]), Quiet())
    await asyncio.sleep(60)

asyncio.run(main())
"""


@contextlib.contextmanager
def member(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that connects and then only beats."""
    process = subprocess.Popen([sys.executable, "-c", MEMBER, str(port), KEY.hex()], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.integration
def test_a_frozen_process_is_noticed_by_its_silence_and_a_killed_one_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plane, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(plane, "SILENCE_LIMIT_S", 2.5)  # the process itself beats once a second

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with listening() as (server, ear):
            with member(server.port) as process:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == b"in\n"
                await asyncio.sleep(3)
                assert ear.ends.empty(), "a living process was given up"
                os.kill(process.pid, signal.SIGSTOP)
                frozen_at = loop.time()
                assert "silent" in await ear.end(10)
                assert 1.0 < loop.time() - frozen_at < 4.0
            with member(server.port) as process:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == b"in\n"
                process.kill()
                await ear.end(1)

    asyncio.run(main())
