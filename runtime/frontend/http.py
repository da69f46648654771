"""Raw ASGI for the hot endpoints: reading bodies, writing answers, noticing that the client left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterable

from starlette.types import Receive, Scope, Send

from dynamoc.runtime.frontend.errors import ApiError

JSON_TYPE = (b"content-type", b"application/json")

_EVENT_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class DisconnectedError(Exception):
    """The client left before its answer was complete."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body of a JSON request; ApiError if it is too large or says it is something else."""
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise ApiError(415, f"content type must be application/json, not {media_type.decode('latin-1')}")
    too_large = ApiError(413, f"the body may have at most {limit} bytes", code="request_too_large")
    if int(headers.get(b"content-length", b"0")) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise too_large
        if not message.get("more_body", False):
            return b"".join(chunks)


@contextlib.asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Raise DisconnectedError inside the block as soon as the client leaves; the body must have been read."""
    owner = asyncio.current_task()
    assert owner is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        owner.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        owner.uncancel()
        raise DisconnectedError from None
    finally:
        watcher.cancel()


async def send_whole(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """A complete response."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [JSON_TYPE, length, *headers]})
    await send({"type": "http.response.body", "body": body})


class EventStream:
    """A response of server-sent events. It starts with the first event: before that, errors still get a status."""

    def __init__(self, send: Send, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.started = False
        self._send = send
        self._headers = [*_EVENT_HEADERS, *headers]

    def write(self, events: bytes) -> Awaitable[None]:
        """Send events in one write; waits while the client reads more slowly than that."""
        if not self.started:
            return self._start(events)
        return self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self, events: bytes) -> None:
        """Send the last events."""
        if not self.started:
            await self._start(b"")
        await self._send({"type": "http.response.body", "body": events})

    async def _start(self, events: bytes) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        if events:
            await self._send({"type": "http.response.body", "body": events, "more_body": True})
