"""The receiving end of tcp: takes blocks off data connections straight into the pool, while they are expected."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import HostPool, Pool
from dynamoc.runtime.kv.transfer.checksums import units_of
from dynamoc.runtime.kv.transfer.cuts import Cut
from dynamoc.runtime.kv.transfer.pairs import Indices, count_repeats, indices_of
from dynamoc.runtime.kv.transfer.rows import bytes_of
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.shards import Portion, cut_of, portion_from

MAX_CONNECTIONS = 256
GREETING_LIMIT_S = 30.0

_log = logging.getLogger("dynamoc.transports.tcp")


@dataclass(slots=True)
class _Grant:
    """Blocks a peer may write, marked, and the connections that are doing so."""

    blocks: NDArray[np.bool_]
    writing: dict[socket.socket, Future[None]] = field(default_factory=dict)


class Receiver(Protocol):
    """How the bytes of a transfer come in, once its blocks are announced."""

    def turns(self, portion: Portion, count: int) -> Iterator[slice]:
        """Begin a transfer of `portion` of so many blocks: those that come together, in order.

        Between two turns the owner asks whether it still wants more.
        """
        ...

    def fill(self, connection: socket.socket, blocks: Indices, check: wire.Check) -> None:
        """Put the next of them where they belong; TransportError or OSError."""
        ...

    def close(self, *, quiet: bool) -> None:
        """The connection ended; `quiet` if not within a transfer."""
        ...


class Stream:
    """They come over the connection itself."""

    def __init__(self, pool: HostPool) -> None:
        self._pool = pool
        self._cut: Cut

    def turns(self, portion: Portion, count: int) -> Iterator[slice]:
        """One unit after another."""
        self._cut = cut_of(self._pool.data, self._pool.layout, portion.way, portion.layers)
        return units_of(count, portion.size)

    def fill(self, connection: socket.socket, blocks: Indices, check: wire.Check) -> None:
        """Receive into the blocks; by way of a buffer, if they are not one run of bytes."""
        cut = self._cut
        run = cut.in_place(blocks)
        data = np.empty((blocks.size, cut.size), np.uint8) if run is None else run
        wire.receive_into(connection, bytes_of(data), check)
        if run is None:
            cut.put(blocks, data)

    def close(self, *, quiet: bool) -> None:
        """Nothing is left."""


Attach = Callable[[socket.socket, wire.Check], Receiver]


class TcpOwner:
    """Listens for writers of one pool. One thread a connection, which puts what comes into the blocks."""

    def __init__(self, key: bytes, pool: Pool, listener: socket.socket, attach: Attach) -> None:
        self._key = key
        self._pool = pool
        self._listener = listener
        self._attach = attach
        self._lock = threading.Lock()
        self._grants: dict[int, _Grant] = {}
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def expect(self, tag: int, blocks: Sequence[int]) -> None:
        """Take these blocks under `tag`."""
        named = indices_of(blocks)
        if named.size and not 0 <= named.min() <= named.max() < self._pool.blocks:
            raise TransportError(f"my pool has {self._pool.blocks} blocks: not all of {blocks} are in it")
        allowed = np.zeros(self._pool.blocks, np.bool_)
        allowed[named] = True
        with self._lock:
            if tag in self._grants:
                raise TransportError(f"transfer {tag} is already expected")
            self._grants[tag] = _Grant(allowed)

    async def revoke(self, tag: int) -> None:
        """Take nothing under `tag` any more; returns when no thread is inside one of its blocks."""
        with self._lock:
            grant = self._grants.pop(tag, None)
            writing = dict(grant.writing) if grant else {}
        for connection in writing:
            _hang_up(connection)
        await asyncio.gather(*(asyncio.wrap_future(ended) for ended in writing.values()))

    async def close(self) -> None:
        """Stop listening, cut all connections, wait for their threads."""
        self._closing = True
        self._accepting.cancel()
        self._listener.close()
        with self._lock:
            threads = list(self._connections.values())
            for connection in self._connections:
                _hang_up(connection)
        for thread in threads:
            await asyncio.to_thread(thread.join)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            with self._lock:
                if len(self._connections) >= MAX_CONNECTIONS:
                    _log.warning("refused a data connection: %d are open", MAX_CONNECTIONS)
                    connection.close()
                    continue
                connection.settimeout(wire.POLL_S)
                # The last of several answers would wait 40 ms for the peer to confirm the one before it.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._serve, args=(connection,), name="kv-receive", daemon=True)
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            greeted = wire.until(time.monotonic() + GREETING_LIMIT_S, "greeting")
            wire.greet_as_owner(connection, self._key, self._pool.nonce, greeted)
            self._serve_attached(connection, self._attach(connection, greeted))
        except (OSError, TransportError) as error:
            if not self._closing:
                _log.info("data connection ended: %s", error)
        finally:
            with self._lock:
                self._connections.pop(connection, None)
                connection.close()

    def _serve_attached(self, connection: socket.socket, receiver: Receiver) -> None:
        quiet = True
        try:
            while True:
                header = wire.receive(connection, wire.HEADER.size, self._check_open)
                quiet = False
                self._take(connection, header, receiver)
                quiet = True
        finally:
            receiver.close(quiet=quiet)

    def _take(self, connection: socket.socket, header: bytes, receiver: Receiver) -> None:
        """One transfer, from its header to its last answer."""
        said = wire.Header(*wire.HEADER.unpack(header))
        in_time = wire.until(time.monotonic() + said.seconds_left, f"transfer {said.tag}")
        ended: Future[None] = Future()
        ended.set_running_or_notify_cancel()
        try:
            portion = self._portion(said)
            blocks = np.frombuffer(wire.receive(connection, 4 * said.blocks, in_time), "<u4").astype(np.int64)
            self._enter(said.tag, blocks, connection, ended)
        except TransportError as error:
            with contextlib.suppress(OSError):
                wire.answer_refused(connection, str(error), in_time)
            raise
        try:
            wire.answer_ok(connection, in_time)
            for part in receiver.turns(portion, said.blocks):
                # Asked before each turn: whoever revokes waits for the one that is being filled.
                in_time()
                self._check_granted(said.tag)
                receiver.fill(connection, blocks[part], in_time)
        finally:
            self._leave(said.tag, connection, ended)
        wire.answer_ok(connection, in_time)

    def _portion(self, said: wire.Header) -> Portion:
        """Where in my blocks it belongs; TransportError if nowhere."""
        heads = Heads(said.first_head, said.heads, said.all_heads)
        portion = portion_from(self._pool, heads, range(said.first_layer, said.end_layer))
        if said.blocks > self._pool.blocks or said.row_bytes != portion.size:
            raise TransportError(f"{said.row_bytes} bytes of each of {said.blocks} blocks do not fit my pool")
        return portion

    def _enter(self, tag: int, blocks: Indices, connection: socket.socket, ended: Future[None]) -> None:
        with self._lock:
            grant = self._grants.get(tag)
            if grant is None:
                raise TransportError(f"transfer {tag} is not expected")
            in_pool = not blocks.size or blocks.max() < self._pool.blocks
            if not in_pool or not grant.blocks[blocks].all() or count_repeats(blocks, self._pool.blocks):
                raise TransportError(f"transfer {tag} names blocks that are not expected")
            grant.writing[connection] = ended

    def _leave(self, tag: int, connection: socket.socket, ended: Future[None]) -> None:
        with self._lock:
            if (grant := self._grants.get(tag)) is not None:
                grant.writing.pop(connection, None)
        ended.set_result(None)

    def _check_granted(self, tag: int) -> None:
        if tag not in self._grants:
            raise TransportError(f"transfer {tag} was revoked")

    def _check_open(self) -> None:
        if self._closing:
            raise TransportError("closing")


def _hang_up(connection: socket.socket) -> None:
    """Wake the thread that reads from it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
