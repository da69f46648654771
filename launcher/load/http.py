"""A connection that is kept alive, and the server-sent events of one request on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import httptools

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 1024 * 1024
CONNECT_LIMIT_S = 30.0
OK = 200
ERROR_CHARACTERS = 500


class HttpError(Exception):
    """The server refused, or broke off; the message says which."""


class Connection:
    """One request at a time. Opened when first used, and again after the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def events(self, path: str, body: bytes) -> AsyncGenerator[tuple[float, bytes], None]:
        """POST JSON; the data of each event with the clock at which its bytes came. HttpError, OSError."""
        host, port = self._place
        head = f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        request = f"{head}accept: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        answer = _Answer()
        reader, first = await self._send(request)
        try:
            data, now = first, time.perf_counter()
            while True:
                answer.feed(data)
                if answer.status == OK:
                    for event in answer.events():
                        yield now, event
                if answer.done:
                    break
                data, now = await reader.read(READ_BYTES), time.perf_counter()
        except BaseException:
            self.close()
            raise
        if not answer.keeps_alive:
            self.close()
        if answer.status != OK:
            raise HttpError(f"status {answer.status}: {answer.text()[:ERROR_CHARACTERS]}")

    def close(self) -> None:
        """Whatever is on its way is dropped."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _send(self, request: bytes) -> tuple[asyncio.StreamReader, bytes]:
        """The first bytes of the answer. A kept connection that the server has closed meanwhile is opened again."""
        kept = self._streams is not None
        try:
            return await self._try(request)
        except ConnectionError:
            self.close()
            if not kept:
                raise
        except BaseException:
            self.close()
            raise
        return await self._try(request)

    async def _try(self, request: bytes) -> tuple[asyncio.StreamReader, bytes]:
        kept = self._streams
        if kept is None:
            kept = self._streams = await asyncio.wait_for(asyncio.open_connection(*self._place), CONNECT_LIMIT_S)
        reader, writer = kept
        writer.write(request)
        await writer.drain()
        data = await reader.read(READ_BYTES)
        if not data:
            raise ConnectionResetError("the server closed the connection without an answer")
        return reader, data


class _Answer:
    """What the parser of the response calls back."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self.status = 0
        self.done = False
        self.keeps_alive = True

    def feed(self, data: bytes) -> None:
        """More bytes; HttpError if they are not HTTP, or none."""
        if not data:
            raise HttpError("the server closed the connection before the answer was complete")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise HttpError(f"not an answer in HTTP: {error}") from error
        if len(self._rest) > MAX_LINE_BYTES:
            raise HttpError(f"an event of more than {MAX_LINE_BYTES} bytes")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._rest += data

    def on_message_complete(self) -> None:
        self.done = True
        self.keeps_alive = self._parser.should_keep_alive()

    def events(self) -> list[bytes]:
        """The data of every complete event so far, once."""
        *lines, self._rest = self._rest.split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    def text(self) -> str:
        return self._rest.decode(errors="replace")
