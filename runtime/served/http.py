"""An engine's own server, asked over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

import aiohttp
import msgspec

CONNECT_LIMIT_S = 10.0
MAX_EVENT_BYTES = 16 * 1024 * 1024
ERROR_CHARACTERS = 500
SERVER_ERRORS = range(500, 600)
OK = 200
DONE = b"[DONE]"

_encode = msgspec.json.Encoder().encode


class ServerError(Exception):
    """The server refused, failed or broke off. `retryable`: another worker might do it."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class Server:
    """One server. Requests that are cancelled close their connection, which ends them there. Made on the loop."""

    def __init__(self, host: str, port: int) -> None:
        self._base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S),
            headers={"content-type": "application/json"},
        )

    async def close(self) -> None:
        """Drop every connection."""
        await self._session.close()

    async def events(self, path: str, body: Mapping[str, object]) -> AsyncGenerator[bytes, None]:
        """The data of each event of a streamed answer; ServerError. The caller's deadline bounds it."""
        try:
            async with self._session.post(self._base + path, data=_encode(body)) as response:
                if response.status != OK:
                    raise _refused(response.status, await response.text(errors="replace"))
                async for data in _data(response.content):
                    yield data
        except (aiohttp.ClientError, OSError) as error:
            raise ServerError(f"the engine's server broke off: {_said(error)}") from error

    async def post(self, path: str, body: Mapping[str, object]) -> Mapping[str, object]:
        """The one JSON answer; ServerError. The caller's deadline bounds it."""
        try:
            async with self._session.post(self._base + path, data=_encode(body)) as response:
                text = await response.read()
                if response.status != OK:
                    raise _refused(response.status, text.decode(errors="replace"))
                return msgspec.json.decode(text, type=dict[str, object])
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            raise ServerError(f"the engine's server broke off: {_said(error)}") from error

    async def get(self, path: str, limit_s: float) -> bytes:
        """What is there; ServerError, also after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s), self._session.get(self._base + path) as response:
                text = await response.read()
                if response.status != OK:
                    raise _refused(response.status, text.decode(errors="replace"))
                return text
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise ServerError(f"no answer at {path}: {_said(error)}") from error


async def _data(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line[5:].strip() if line.startswith(b"data:") else b""
            if data and data != DONE:
                yield data
        if len(rest) > MAX_EVENT_BYTES:
            raise ServerError(f"an event of more than {MAX_EVENT_BYTES} bytes")


def _refused(status: int, text: str) -> ServerError:
    reason = f"the engine answered {status}: {text[:ERROR_CHARACTERS]}"
    return ServerError(reason, retryable=status in SERVER_ERRORS or status == 429)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
