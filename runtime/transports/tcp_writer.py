"""The sending end of tcp: data connections to one remote pool, and the threads that stream blocks over them."""

from __future__ import annotations

import contextlib
import socket
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.transfer.cuts import Cut
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.rows import bytes_of
from dynamoc.runtime.kv.transfer.walk import Placement
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.protocol import Outcome, TransportError
from dynamoc.runtime.transports.shards import Portion, offered_placement
from dynamoc.runtime.transports.transfer import Digest, Stopped, ThreadedTransfer

STREAMS = 2
"""Data connections to one peer."""


class Metadata(msgspec.Struct, frozen=True, array_like=True):
    """Where a pool is reached, and which one it is."""

    host: str
    port: int
    nonce: bytes
    blocks: int
    layout: KvLayout
    heads: Heads

    @property
    def placement(self) -> Placement:
        """Its blocks; TransportError if they cannot be."""
        return offered_placement(self.layout, self.heads, self.blocks)


class TcpPeer:
    """A remote pool, the threads that send to it and their connections."""

    def __init__(self, key: bytes, offered: Metadata, streams: int = STREAMS) -> None:
        self.blocks = offered.blocks
        self.placement = offered.placement
        self.executor = ThreadPoolExecutor(streams, thread_name_prefix="kv-send")
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
                self.end(idle)
        connection = self.dial(remaining_s, check)
        try:
            self.greeted(connection, check)
        except BaseException:
            self.end(connection)
            raise
        return connection

    def dial(self, remaining_s: float, check: wire.Check) -> socket.socket:
        """A new data connection, both ends of which have proved themselves; TransportError or OSError."""
        connection = socket.create_connection((self._offered.host, self._offered.port), max(remaining_s, 0.001))
        try:
            connection.settimeout(wire.POLL_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.greet_as_writer(connection, self._key, self._offered.nonce, check)
        except BaseException:
            connection.close()
            raise
        return connection

    def greeted(self, connection: socket.socket, check: wire.Check) -> None:
        """What both ends agree on before the first transfer."""

    def end(self, connection: socket.socket) -> None:
        """No transfer uses it any more."""
        connection.close()

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
                self.end(self._idle.popleft())


@dataclass(frozen=True, slots=True)
class Sending:
    """A write to a peer, shared by its lanes: of each block `portion`, of my `heads`, `after` an event if given."""

    transfer: ThreadedTransfer
    peer: TcpPeer
    portion: Portion
    unit_rows: int
    heads: Heads
    tag: int
    after: int | None


@dataclass(frozen=True, slots=True)
class Lane(ABC):
    """Some units of a write, sent by means of one connection."""

    sending: Sending
    units: range

    @property
    def transfer(self) -> ThreadedTransfer:
        """Whether it goes on."""
        return self.sending.transfer

    @property
    def peer(self) -> TcpPeer:
        """Where to."""
        return self.sending.peer

    def __call__(self) -> int:
        """Announce the blocks, send them, wait until the owner says they arrived; how many bytes that were."""
        try:
            self._check()
            self._await_source()
            connection = self.peer.take(self._check, self.transfer.remaining_s)
            try:
                moved = self._stream(connection)
            except BaseException:
                self.peer.end(connection)
                raise
        except (OSError, TransportError):
            self._check()  # a deadline or a cancellation that the owner noticed first is still that
            raise
        self.peer.give_back(connection)
        return moved

    def _check(self) -> None:
        self.transfer.check()
        self.peer.check()

    @abstractmethod
    def _await_source(self) -> None:
        """Until the blocks are there to be sent."""

    def _stream(self, connection: socket.socket) -> int:
        transfer, check, sending = self.transfer, self._check, self.sending
        row_bytes, step = sending.portion.size, sending.unit_rows
        part = slice(self.units.start * step, self.units.stop * step)
        sources, destinations = transfer.pairs.sources[part], transfer.pairs.destinations[part]
        layers = (sending.portion.layers.start, sending.portion.layers.stop)
        heads = (sending.heads.first, sending.heads.count, sending.heads.total)
        left_s = max(transfer.remaining_s, 0.0)
        header = wire.HEADER.pack(*wire.Header(sending.tag, sources.size, row_bytes, *layers, *heads, left_s))
        wire.send_all(connection, header + destinations.astype("<u4").tobytes(), check)
        self._send(connection, sources)
        wire.accept_answer(connection, check)
        return sources.size * row_bytes

    @abstractmethod
    def _send(self, connection: socket.socket, sources: Indices) -> None:
        """The bytes of these blocks, with their checksums, once the owner answers that it expects them."""


@dataclass(frozen=True, slots=True)
class StreamLane(Lane):
    """Over the connection itself, unit by unit."""

    cut: Cut
    digest: Digest

    def _await_source(self) -> None:
        """Host memory is filled before anybody is told of it."""

    def _send(self, connection: socket.socket, sources: Indices) -> None:
        wire.accept_answer(connection, self._check)
        step = self.sending.unit_rows
        for turn, unit in enumerate(self.units):
            self._check()
            data = self.cut.pick(sources[turn * step : (turn + 1) * step])
            self.transfer.checksums[unit] = self.digest(data)
            wire.send_all(connection, bytes_of(data), self._check)


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
