"""Both ends of a plane, strangers to it, and what may stand between them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from dynamoc.runtime.plane import messages as m
from dynamoc.runtime.plane.connection import Connection, Identity, PlaneServer, dial, listen

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
