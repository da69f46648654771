"""Authenticated, length-prefixed msgpack connections between the processes of one run.

A frame is a u32 little-endian length and that many bytes of one encoded message; an empty frame is a heartbeat.
Both sides prove that they hold the run's key before any message passes. Sending never blocks: a peer that does
not read is cut off when `MAX_UNSENT_BYTES` are waiting for it, and one that is silent for `SILENCE_LIMIT_S` is
taken for dead.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import Protocol, cast

import msgspec

from dynamoc.runtime.plane.messages import AnyMessage, Message

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_UNSENT_BYTES = 64 * 1024 * 1024
HEARTBEAT_S = 1.0
SILENCE_LIMIT_S = 10.0
HANDSHAKE_LIMIT_S = 5.0

_HEARTBEAT = bytes(4)


class PlaneError(ConnectionError):
    """The peer cannot be reached, is not of this run, or the connection is gone."""


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Who speaks: a process name, its role and which life of it."""

    name: str
    role: str
    incarnation: int = 0


class _Challenge(msgspec.Struct, frozen=True, array_like=True):
    version: int
    nonce: bytes


class _Hello(msgspec.Struct, frozen=True, array_like=True):
    identity: Identity
    nonce: bytes
    proof: bytes


class _Welcome(msgspec.Struct, frozen=True, array_like=True):
    identity: Identity
    proof: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(AnyMessage).decode
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _proof(key: bytes, side: str, nonces: bytes, identity: Identity) -> bytes:
    return hmac.digest(key, side.encode() + nonces + _encode(identity), "sha256")


class Handler(Protocol):
    """What a process does with a connection. All three are called on the event loop and must not block."""

    def opened(self, connection: Connection) -> None:
        """Both sides are proved; `connection.peer` is known."""
        ...

    def received(self, connection: Connection, message: Message) -> None:
        """One message arrived, in the order it was sent."""
        ...

    def closed(self, connection: Connection, reason: str) -> None:
        """The connection is gone; called exactly once, and only after `opened`."""
        ...


class Connection(asyncio.Protocol):
    """One side of a connection. Made by `dial` and `listen`, never directly."""

    def __init__(self, identity: Identity, key: bytes, handler: Handler, *, dialled: bool) -> None:
        self.peer = Identity("?", "?")
        self.heard_at = 0.0
        """When anything came from the peer last, on the loop's clock; unless held up, it speaks every `HEARTBEAT_S`."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._identity = identity
        self._key = key
        self._handler = handler
        self._dialled = dialled
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._nonce = secrets.token_bytes(16)
        self._peer_nonce = b""
        self._opened = False
        self._closed = False
        self._reason = ""
        self._timer: asyncio.TimerHandle | None = None

    def send(self, message: Message) -> None:
        """Queue one message. PlaneError if the connection is gone or the peer has stopped reading."""
        self.send_encoded(_encode(message))

    def send_encoded(self, payload: bytes) -> None:
        """Queue one message that is already encoded."""
        if self._transport is None or not self.is_open:
            raise PlaneError(f"connection to {self.peer.name} is closed: {self._reason}")
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.abort(f"{self.peer.name} does not read: {MAX_UNSENT_BYTES} bytes are waiting")
            raise PlaneError(self._reason)
        self._write(payload)

    def close(self, reason: str = "closed here") -> None:
        """Close after what is queued was sent."""
        if not self._closed and self._transport is not None:
            self._reason = self._reason or reason
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what is queued is lost."""
        if not self._closed and self._transport is not None:
            self._reason = self._reason or reason
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._opened and not self._closing

    @property
    def _closing(self) -> bool:
        return self._closed or self._transport is None or self._transport.is_closing()

    # ---- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake."""
        # A cast, not a check: uvloop's transports have the methods but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self.heard_at = loop.time()
        self._timer = loop.call_later(HANDSHAKE_LIMIT_S, self._handshake_late)
        if not self._dialled:
            self._write(_encode(_Challenge(PROTOCOL_VERSION, self._nonce)))

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames."""
        self.heard_at = asyncio.get_running_loop().time()
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= 4 and not self._closing:
            size = int.from_bytes(buffer[start : start + 4], "little")
            if size > MAX_FRAME_BYTES or (size > 4096 and not self._opened):
                self.abort(f"frame of {size} bytes from {self.peer.name}")
                return
            if end - start - 4 < size:
                break
            if size:
                self._frame(bytes(memoryview(buffer)[start + 4 : start + 4 + size]))
            start += 4 + size
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler, once."""
        self._closed = True
        self._reason = self._reason or (str(exc) if exc else f"{self.peer.name} closed the connection")
        if self._timer is not None:
            self._timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(PlaneError(self._reason))
        if self._opened:
            self._handler.closed(self, self._reason)

    # ---- inside ---------------------------------------------------------------------------------------

    def _write(self, payload: bytes) -> None:
        assert self._transport is not None
        self._transport.write(len(payload).to_bytes(4, "little") + payload)

    def _frame(self, payload: bytes) -> None:
        if not self._opened:
            try:
                self._shake(payload)
            except _UNDECODABLE as error:
                self.abort(f"handshake failed: {error}")
            return
        try:
            message = _decode_message(payload)
        except _UNDECODABLE as error:
            self.abort(f"undecodable message from {self.peer.name}: {error}")
            return
        self._handler.received(self, message)

    def _shake(self, payload: bytes) -> None:
        if self._dialled and not self._peer_nonce:
            challenge = msgspec.msgpack.decode(payload, type=_Challenge)
            if challenge.version != PROTOCOL_VERSION:
                self.abort(f"peer speaks plane version {challenge.version}, not {PROTOCOL_VERSION}")
                return
            self._peer_nonce = challenge.nonce
            nonces = self._peer_nonce + self._nonce
            self._write(
                _encode(_Hello(self._identity, self._nonce, _proof(self._key, "client", nonces, self._identity)))
            )
        elif self._dialled:
            welcome = msgspec.msgpack.decode(payload, type=_Welcome)
            self._admit(welcome.identity, welcome.proof, "server", self._peer_nonce + self._nonce)
        else:
            hello = msgspec.msgpack.decode(payload, type=_Hello)
            nonces = self._nonce + hello.nonce
            welcome = _Welcome(self._identity, _proof(self._key, "server", nonces, self._identity))
            self._admit(hello.identity, hello.proof, "client", nonces, welcome)

    def _admit(
        self, identity: Identity, proof: bytes, side: str, nonces: bytes, answer: _Welcome | None = None
    ) -> None:
        if not hmac.compare_digest(proof, _proof(self._key, side, nonces, identity)):
            self.abort("peer does not hold the run's key")
            return
        if answer is not None:
            self._write(_encode(answer))
        self.peer = identity
        self._opened = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)
        self.ready.set_result(None)
        self._handler.opened(self)

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self.heard_at > SILENCE_LIMIT_S:
            self.abort(f"{self.peer.name} was silent for {SILENCE_LIMIT_S:.0f} s")
            return
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEARTBEAT)
        self._timer = loop.call_later(HEARTBEAT_S, self._beat)

    def _handshake_late(self) -> None:
        self.abort(f"no handshake within {HANDSHAKE_LIMIT_S:.0f} s")


async def dial(
    host: str, port: int, identity: Identity, key: bytes, handler: Handler, deadline_s: float = HANDSHAKE_LIMIT_S
) -> Connection:
    """Connect and prove both sides. PlaneError within `deadline_s` if that is not possible."""
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(deadline_s):
            _, connection = await loop.create_connection(
                lambda: Connection(identity, key, handler, dialled=True), host, port
            )
            await connection.ready
    except asyncio.CancelledError:
        if connection is not None:
            connection.abort("nobody waits for the connection any more")
        raise
    except (OSError, TimeoutError) as error:
        if connection is not None:
            connection.abort(str(error))
        raise PlaneError(
            f"cannot reach {host}:{port}: {str(error) or f'no answer within {deadline_s:.1f} s'}"
        ) from error
    return connection


class PlaneServer:
    """A listening plane."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    @property
    def port(self) -> int:
        """The port it listens on (the one asked for, or the one the system chose for 0)."""
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening. Open connections are the handler's to close."""
        self._server.close()


async def listen(host: str, port: int, identity: Identity, key: bytes, handler: Handler) -> PlaneServer:
    """Accept connections of this run on exactly `host:port`; OSError if it cannot be bound."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(identity, key, handler, dialled=False), host, port)
    return PlaneServer(server)
