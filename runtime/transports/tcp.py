"""TCP: the writer streams blocks over its own data connections; the owner's threads receive them in place.

The owner takes bytes only for transfers it expects, asks again before each block, and can revoke at any time: so
bytes that are late on the wire never reach a block that was given to someone else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import socket
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import xxhash

from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.protocol import BlockPair, Outcome, Peer, Transfer, TransportError
from dynamoc.runtime.transports.tcp_owner import TcpOwner
from dynamoc.runtime.transports.transfer import Stopped, ThreadedTransfer, check_pairs

STREAMS = 2
"""Data connections to one peer."""
STREAM_BYTES = 8 * 1024 * 1024
"""A transfer is split over a further stream for every so many bytes."""

_digest = xxhash.xxh3_64_intdigest


class _Metadata(msgspec.Struct, frozen=True, array_like=True):
    host: str
    port: int
    nonce: bytes
    blocks: int
    block_bytes: int


class TcpPeer:
    """A remote pool, the threads that send to it and their connections."""

    def __init__(self, key: bytes, offered: _Metadata) -> None:
        self.blocks = offered.blocks
        self.executor = ThreadPoolExecutor(STREAMS, thread_name_prefix="kv-send")
        self._key = key
        self._offered = offered
        self._idle: deque[socket.socket] = deque()
        self.closed = False

    def take(self, check: wire.Check, remaining_s: float) -> socket.socket:
        """An open data connection; TransportError or OSError if the peer is not there any more."""
        self.check()
        with contextlib.suppress(IndexError):
            while True:
                idle = self._idle.popleft()
                if _still_open(idle):
                    return idle
                idle.close()
        connection = socket.create_connection((self._offered.host, self._offered.port), max(remaining_s, 0.001))
        try:
            connection.settimeout(wire.POLL_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.greet_as_writer(connection, self._key, self._offered.nonce, check)
        except BaseException:
            connection.close()
            raise
        return connection

    def give_back(self, connection: socket.socket) -> None:
        """Keep a connection whose last transfer ended well."""
        self._idle.append(connection)
        if self.closed:
            self._drop_idle()

    def check(self) -> None:
        """Stopped if the peer was closed here."""
        if self.closed:
            raise Stopped(Outcome.FAILURE, "the peer was closed")

    def close(self) -> None:
        """Running sends end at their next check."""
        self.closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.popleft().close()


class TcpTransport:
    """Streams blocks to peers, and owns the listening end of its own pool."""

    name = "tcp"

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._pool: HostPool | None = None
        self._owner: TcpOwner | None = None
        self._peers: list[TcpPeer] = []
        self._transfers: set[ThreadedTransfer] = set()

    def register(self, pool: HostPool) -> None:
        """Make `pool` the source of writes, and after `start` a destination."""
        self._pool = pool

    async def start(self, host: str, port: int) -> int | None:
        """Listen for writers on exactly `host:port`; OSError if it cannot be bound."""
        listener = socket.create_server((host, port), backlog=128)
        listener.setblocking(False)
        self._owner = TcpOwner(self._key, self._registered(), listener)
        return self._owner.address[1]

    def metadata(self) -> bytes:
        """Where writers connect, and which pool they will find."""
        pool = self._registered()
        host, port = self._listening().address
        return msgspec.msgpack.encode(_Metadata(host, port, pool.nonce, pool.blocks, pool.layout.block_bytes))

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Open the first data connection and prove both ends."""
        try:
            offered = msgspec.msgpack.decode(metadata, type=_Metadata)
        except msgspec.MsgspecError as error:
            raise TransportError(f"these are not tcp metadata: {error}") from error
        mine = self._registered().layout.block_bytes
        if offered.block_bytes != mine:
            raise TransportError(f"the peer's blocks have {offered.block_bytes} bytes, mine {mine}")
        peer = TcpPeer(self._key, offered)
        check = wire.until(time.monotonic() + deadline_s, "connecting")
        try:
            peer.give_back(await asyncio.wrap_future(peer.executor.submit(peer.take, check, deadline_s)))
        except OSError as error:
            peer.close()
            raise TransportError(f"cannot reach the pool at {offered.host}:{offered.port}: {error}") from error
        except TransportError:
            peer.close()
            raise
        self._peers = [known for known in self._peers if not known.closed] + [peer]
        return peer

    def write(self, peer: Peer, pairs: Sequence[BlockPair], deadline_s: float, tag: int) -> Transfer:
        """Stream my blocks to the peer's."""
        assert isinstance(peer, TcpPeer)
        pool = self._registered()
        check_pairs(pairs, pool.blocks, peer.blocks)
        transfer = ThreadedTransfer(pairs, pool.layout.block_bytes, deadline_s)
        lanes = min(STREAMS, len(pairs), 1 + len(pairs) * pool.layout.block_bytes // STREAM_BYTES)
        bounds = [len(pairs) * lane // lanes for lane in range(lanes + 1)] if lanes else [0]
        spans = [range(start, end) for start, end in itertools.pairwise(bounds)]
        self._transfers.add(transfer)
        transfer.run(peer.executor, [functools.partial(_send, transfer, pool, peer, span, tag) for span in spans])
        transfer.on_settled(lambda: self._transfers.discard(transfer))
        return transfer

    def expect(self, tag: int, blocks: Sequence[int]) -> None:
        """Take these blocks from a writer that names `tag`."""
        self._listening().expect(tag, blocks)

    async def revoke(self, tag: int) -> bool:
        """Refuse what still comes under `tag`: from the return on, nothing is written for it."""
        await self._listening().revoke(tag)
        return True

    def writer(self) -> bytes:
        """Not needed: revoking is enough."""
        return b""

    def writer_gone(self, writer: bytes) -> bool:
        """Not needed: revoking is enough."""
        del writer
        return True

    async def close(self) -> None:
        """End all sends, close the listener, wait for the threads."""
        running = list(self._transfers)
        for transfer in running:
            transfer.cancel()
        await asyncio.gather(*(transfer.wait() for transfer in running))
        for peer in self._peers:
            peer.close()
        if self._owner is not None:
            await self._owner.close()

    def _registered(self) -> HostPool:
        if self._pool is None:
            raise TransportError("no pool is registered")
        return self._pool

    def _listening(self) -> TcpOwner:
        if self._owner is None:
            raise TransportError("the transport was not started")
        return self._owner


def _still_open(connection: socket.socket) -> bool:
    """Whether an idle connection was left alone by the peer."""
    try:
        connection.settimeout(0)
        connection.recv(1, socket.MSG_PEEK)  # the owner says nothing unasked: this can only be its end
    except BlockingIOError:
        connection.settimeout(wire.POLL_S)
        return True
    except OSError:
        return False
    return False


def _send(transfer: ThreadedTransfer, pool: HostPool, peer: TcpPeer, span: range, tag: int) -> int:
    """One lane: announce a span of the pairs, stream its blocks, wait until the owner says they arrived."""

    def check() -> None:
        transfer.check()
        peer.check()

    try:
        check()
        connection = peer.take(check, transfer.remaining_s)
        try:
            _stream(transfer, pool, connection, span, tag, check)
        except BaseException:
            connection.close()
            raise
    except (OSError, TransportError):
        check()  # a deadline or a cancellation that the owner noticed first is still that
        raise
    peer.give_back(connection)
    return len(span)


def _stream(
    transfer: ThreadedTransfer, pool: HostPool, connection: socket.socket, span: range, tag: int, check: wire.Check
) -> None:
    destinations = np.array([transfer.pairs[index].destination for index in span], "<u4").tobytes()
    header = wire.HEADER.pack(tag, len(span), pool.layout.block_bytes, max(transfer.remaining_s, 0.0))
    wire.send_all(connection, header + destinations, check)
    wire.accept_answer(connection, check)
    for index in span:
        check()
        block = pool.block(transfer.pairs[index].source)
        transfer.checksums[index] = _digest(block)
        wire.send_all(connection, block, check)
    wire.accept_answer(connection, check)
