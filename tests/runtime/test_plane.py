"""The plane between processes: who gets in, what gets through, and who is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.runtime.plane import connection as plane
from dynamoc.runtime.plane import messages as m
from dynamoc.runtime.plane.connection import Connection, Identity, PlaneError, PlaneServer, dial, listen

KEY = b"0123456789abcdef0123456789abcdef"
HERE = "127.0.0.1"
SERVER, CLIENT = Identity("router-0", "router"), Identity("decode-0", "decode", 3)


class Ear:
    """A handler that keeps all it is told."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.messages: asyncio.Queue[m.Message] = asyncio.Queue()
        self.ends: asyncio.Queue[str] = asyncio.Queue()

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)

    def received(self, connection: Connection, message: m.Message) -> None:
        self.messages.put_nowait(message)

    def closed(self, connection: Connection, reason: str) -> None:
        self.ends.put_nowait(reason)

    async def hear(self) -> m.Message:
        return await asyncio.wait_for(self.messages.get(), 5)

    async def end(self, within_s: float = 5) -> str:
        return await asyncio.wait_for(self.ends.get(), within_s)


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[PlaneServer, Ear]]:
    """A plane that must end without the event loop having seen an exception nobody caught."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    ear = Ear()
    server = await listen(HERE, 0, SERVER, KEY, ear)
    try:
        yield server, ear
    finally:
        await server.close()
        for connection in ear.connections:
            connection.abort("the test is over")
        await asyncio.sleep(0.01)
    assert not failures


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, Ear, Connection, Ear]]:
    """The client's side and the server's side of one connection, each with its ear."""
    async with listening() as (server, server_ear):
        client_ear = Ear()
        client = await dial(HERE, server.port, CLIENT, KEY, client_ear)
        yield client, client_ear, server_ear.connections[0], server_ear
        client.abort("the test is over")
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def stranger(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP client that knows nothing of planes."""
    reader, writer = await asyncio.open_connection(HERE, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + payload


async def hung_up(reader: asyncio.StreamReader, within_s: float = 5) -> bool:
    """Whether the other side closed, read to the end."""
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), within_s)
    return True


# ---- getting in ------------------------------------------------------------------------------------------


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


# ---- getting through -------------------------------------------------------------------------------------

BLOCK = m.StoredBlock(2**64 - 1, 0)
ADDRESS = m.WorkerAddress("decode-0", 3, HERE, 65535)
INFO = m.WorkerInfo(ADDRESS, "decode", "decode", "m", "native", 16, 100, 4096, 2048, 8, "ab", "shm")
OUTPUT = m.TokenOutput(7, (1, 2), "stop", (m.TokenLogprob(-0.5, ((1, -0.5),)),), 16, "boom", True)
SAMPLING = m.Sampling(16, 0.0, 0.9, 40, 2**63, (1, 2), True, 5, 0.1, -0.1)
EXAMPLES: tuple[m.Message, ...] = (
    m.BlocksStored((BLOCK,), 2**64 - 1, "G2"),
    m.BlocksRemoved((0, 2**64 - 1), "G3"),
    m.BlocksCleared(),
    m.KvEvents(9, (m.BlocksStored((BLOCK, BLOCK)), m.BlocksRemoved((1,)), m.BlocksCleared())),
    m.RegisterWorker(INFO),
    m.Registered(False, "why"),
    m.LoadReport(1, 2, 3, 4),
    m.Draining(),
    m.RouteRequest(1, b"\0\1\2\3" * 4096, 128, ("decode-0@3",)),
    m.Routed(1, ADDRESS, ADDRESS, 5),
    m.RouteRefused(1, "timeout", "late"),
    m.PromptComputed(1),
    m.RequestEnded(1),
    m.WorkersWanted(),
    m.Workers((INFO, INFO)),
    m.Generate(1, b"\0" * 8, SAMPLING, ADDRESS, 1.5, 2),
    m.Cancel(1),
    m.StepOutputs((OUTPUT, OUTPUT)),
    m.AttachPool("tcp", b"\xff", "ab"),
    m.PoolAttached("tcp", False, "no"),
    m.PrefillRequest(1, 2, b"\0" * 8, SAMPLING, 3, (4, 5), 6.5, 1),
    m.PrefillDone(1, 2, OUTPUT, b"c" * 16, "tcp", 3, 0.5),
    m.PrefillFailed(1, 2, "why", False),
    m.AbortPrefill(1, 2),
    m.PrefillAborted(1, 2),
)


def test_every_message_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == set(typing.get_args(m.AnyMessage))


def test_every_message_arrives_as_it_was_sent_and_in_order() -> None:
    async def main() -> None:
        async with connected() as (client, client_ear, served, server_ear):
            for example in EXAMPLES:
                client.send(example)
                served.send(example)
            for example in EXAMPLES:
                assert await server_ear.hear() == example
                assert await client_ear.hear() == example

    asyncio.run(main())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 7, 5000]))
def test_however_the_stream_is_cut_the_messages_are_whole(seed: int, largest: int) -> None:
    async def main() -> None:
        async with listening() as (server, ear), chopper(server.port, random.Random(seed), largest) as port:
            client = await dial(HERE, port, CLIENT, KEY, Ear())
            short = [example for example in EXAMPLES if not isinstance(example, m.RouteRequest)]
            for example in short:
                client.send(example)
            for example in short:
                assert await ear.hear() == example
            client.abort("done")
            await ear.end()

    asyncio.run(main())


def test_what_was_queued_is_sent_before_a_close() -> None:
    async def main() -> None:
        async with connected() as (client, client_ear, _, server_ear):
            for k in range(1000):
                client.send(m.RouteRequest(k, b"\0" * 4096, 1))
            client.close("done here")
            for k in range(1000):
                message = await server_ear.hear()
                assert isinstance(message, m.RouteRequest)
                assert message.request_id == k
            assert await client_ear.end() == "done here"
            assert "closed the connection" in await server_ear.end()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_closed_connection_says_so_to_who_sends(end: str) -> None:
    async def main() -> None:
        async with connected() as (client, client_ear, _, server_ear):
            getattr(client, end)("enough")
            assert not client.is_open
            with pytest.raises(PlaneError, match="enough"):
                client.send(m.Draining())
            assert await client_ear.end() == "enough"
            with pytest.raises(PlaneError, match="enough"):
                client.send(m.Draining())
            await server_ear.end()
            client.close("again")
            client.abort("again")
            await asyncio.sleep(0.05)
            assert client_ear.ends.empty(), "told twice of one end"

    asyncio.run(main())


def test_nothing_is_heard_after_our_own_close() -> None:
    async def main() -> None:
        async with connected() as (client, _, served, server_ear):
            heard = server_ear.messages

            def received(connection: Connection, message: m.Message) -> None:
                heard.put_nowait(message)
                connection.abort("one is enough")

            server_ear.received = received  # type: ignore[method-assign]
            for k in range(50):  # in one segment
                client.send(m.Cancel(k))
            await server_ear.end()
            assert heard.qsize() == 1
            assert not served.is_open

    asyncio.run(main())


# ---- being cut off ---------------------------------------------------------------------------------------


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


# ---- what stands between ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def relay(port: int, forward: Any) -> AsyncIterator[int]:
    """A TCP relay to `port`; `forward(data, writer)` passes on what the client says."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, write: Any) -> None:
        try:
            while data := await reader.read(65536):
                await write(data, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def plain(data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HERE, port)
        for pair in (pump(reader, far_writer, forward), pump(far_reader, writer, plain)):
            tasks.add(asyncio.create_task(pair))

    server = await asyncio.start_server(serve, HERE, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def recorder(port: int) -> AsyncIterator[tuple[int, bytearray]]:
    recording = bytearray()

    async def forward(data: bytes, writer: asyncio.StreamWriter) -> None:
        recording.extend(data)
        writer.write(data)

    async with relay(port, forward) as relayed:
        yield relayed, recording


@contextlib.asynccontextmanager
async def chopper(port: int, rng: random.Random, largest: int) -> AsyncIterator[int]:
    async def forward(data: bytes, writer: asyncio.StreamWriter) -> None:
        while data:
            cut = rng.randint(1, largest)
            writer.write(data[:cut])
            data = data[cut:]
            await asyncio.sleep(0)

    async with relay(port, forward) as relayed:
        yield relayed
