"""A small real HTTP server that streams completions, well or not, as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Behave = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request; the connection is closed after it if `close` is set."""

    number: int
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    close: bool = False

    def head(self, status: str = "200 OK", more: str = "transfer-encoding: chunked") -> None:
        self.writer.write(f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\n{more}\r\n\r\n".encode())

    def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, fields: dict[str, Any] | str) -> None:
        text = fields if isinstance(fields, str) else json.dumps(fields)
        self.chunk(f"data: {text}\n\n".encode())

    def token(self, text: str = " a") -> None:
        self.event({"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": None}]})

    def end(self, tokens: int) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": tokens}
        self.event({"object": "text_completion", "choices": [], "usage": usage})
        self.event("[DONE]")
        self.chunk(b"")


async def well(exchange: Exchange, gap_s: float = 0.0) -> None:
    exchange.head()
    for _ in range(exchange.body["max_tokens"]):
        await asyncio.sleep(gap_s)
        exchange.token()
        await exchange.writer.drain()
    exchange.end(exchange.body["max_tokens"])


@dataclass
class SmallServer:
    """In a thread of its own. Counts connections and what is in flight."""

    behave: Behave = well
    port: int = 0
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if head.startswith("get /metrics"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                exchange = Exchange(len(self.bodies), json.loads(await reader.readexactly(length)), writer)
                self.bodies.append(exchange.body)
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    await self.behave(exchange)
                    await writer.drain()
                finally:
                    self.in_flight -= 1
                if exchange.close:
                    break
        writer.close()


@contextlib.contextmanager
def small_server(behave: Behave = well) -> Iterator[SmallServer]:
    server = SmallServer(behave)
    ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        listener = await asyncio.start_server(server._serve, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        ready.set()
        async with listener:
            await stop.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
