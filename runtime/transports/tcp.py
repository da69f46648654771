"""TCP: the writer streams blocks over its own data connections; the owner's threads receive them in place.

The owner takes bytes only for transfers it expects, asks again before each unit of blocks, and can revoke at any time:
so bytes that are late on the wire never reach a block that was given to someone else.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Sequence

import msgspec

from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import Pool
from dynamoc.runtime.kv.transfer.checksums import Checksum, digest
from dynamoc.runtime.kv.transfer.cuts import mismatches
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.protocol import Peer, Transfer, TransportError
from dynamoc.runtime.transports.shards import cut_from, cut_of, portion_to, walk_to
from dynamoc.runtime.transports.tcp_owner import Receiver, Stream, TcpOwner
from dynamoc.runtime.transports.tcp_writer import STREAMS, Lane, Metadata, Sending, StreamLane, TcpPeer
from dynamoc.runtime.transports.transfer import (
    HOST_PART_BYTES,
    Digest,
    ThreadedTransfer,
    cancel_all,
    check_pairs,
    host_pool,
)

STREAM_BYTES = 8 * 1024 * 1024
"""A transfer is split over a further stream for every so many bytes."""


class TcpTransport:
    """Streams blocks to peers, and owns the listening end of its own pool."""

    name = "tcp"
    checksum: Checksum = Checksum.XXH3
    part_bytes: int = HOST_PART_BYTES
    streams: int = STREAMS

    def __init__(self, key: bytes, digest: Digest = digest) -> None:
        self._key = key
        self._digest = digest
        self._pool: Pool | None = None
        self._owner: TcpOwner | None = None
        self._peers: list[TcpPeer] = []
        self._transfers: set[ThreadedTransfer] = set()

    def register(self, pool: Pool) -> None:
        """Make `pool` the source of writes, and after `start` a destination."""
        self._pool = host_pool(pool, self.name)

    async def prepare(self, host: str) -> None:
        """Nothing takes long."""

    async def start(self, host: str, port: int) -> int | None:
        """Listen for writers on exactly `host:port`; OSError if it cannot be bound."""
        listener = socket.create_server((host, port), backlog=128)
        listener.setblocking(False)
        self._owner = self.owner(listener)
        return self._owner.address[1]

    def metadata(self) -> bytes:
        """Where writers connect, and which pool they will find."""
        return msgspec.msgpack.encode(self.offer())

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Open the first data connection and prove both ends."""
        offered = self.offered(metadata)
        peer = self.peer(offered)
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

    def write(
        self,
        peer: Peer,
        pairs: BlockPairs,
        deadline_s: float,
        tag: int,
        layers: range | None = None,
        after: int | None = None,
    ) -> Transfer:
        """Stream my blocks to the peer's."""
        assert isinstance(peer, TcpPeer)
        pool = self._registered()
        check_pairs(pairs, pool.blocks, peer.blocks)
        portion = portion_to(pool, peer.placement, layers)
        transfer = ThreadedTransfer(pairs, self.checksum.room(len(pairs), portion.size), deadline_s)
        units = len(transfer.checksums)
        count = min(self.streams, units, 1 + len(pairs) * portion.size // STREAM_BYTES)
        bounds = [units * lane // count for lane in range(count + 1)] if count else [0]
        self._transfers.add(transfer)
        sending = Sending(transfer, peer, portion, self.checksum.unit_rows(portion.size), pool.heads, tag, after)
        lanes = [self.lane(sending, range(start, end)) for start, end in itertools.pairwise(bounds)]
        transfer.run(peer.executor, lanes)
        transfer.on_settled(lambda: self._transfers.discard(transfer))
        return transfer

    def expect(self, tag: int, blocks: Sequence[int]) -> None:
        """Take these blocks from a writer that names `tag`."""
        self._listening().expect(tag, blocks)

    async def revoke(self, tag: int) -> bool:
        """Refuse what still comes under `tag`: from the return on, nothing is written for it."""
        await self._listening().revoke(tag)
        return True

    async def mismatches(
        self, blocks: Indices, checksums: bytes, layers: range | None = None, heads: Heads | None = None
    ) -> Indices:
        """Hash what arrived; `heads` are the writer's, if they are not mine."""
        cut = cut_from(host_pool(self._registered(), self.name), heads, layers)
        return await asyncio.to_thread(mismatches, cut, blocks, checksums)

    def writer(self) -> bytes:
        """Not needed: revoking is enough."""
        return b""

    def writer_gone(self, writer: bytes) -> bool:
        """Not needed: revoking is enough."""
        del writer
        return True

    async def close(self) -> None:
        """End all sends, close the listener, wait for the threads."""
        await cancel_all(self._transfers)
        for peer in self._peers:
            peer.close()
        if self._owner is not None:
            await self._owner.close()

    # ---- what a transport that agrees on transfers in the same way does otherwise ---------------------------

    described: type[Metadata] = Metadata

    def lane(self, sending: Sending, units: range) -> Lane:
        """What sends these units."""
        assert sending.after is None  # host memory has no events
        pool, portion = host_pool(self._registered(), self.name), sending.portion
        cut = cut_of(pool.data, pool.layout, portion.way, portion.layers)
        return StreamLane(sending, units, cut, self._digest)

    def owner(self, listener: socket.socket) -> TcpOwner:
        """The listening end."""
        pool = host_pool(self._registered(), self.name)

        def attach(connection: socket.socket, check: wire.Check) -> Receiver:
            del connection, check  # nothing needs to be agreed on
            return Stream(pool)

        return TcpOwner(self._key, pool, listener, attach)

    def peer(self, offered: Metadata) -> TcpPeer:
        """The other end of a pool that was offered."""
        return TcpPeer(self._key, offered)

    def offer(self) -> Metadata:
        """My pool."""
        pool = self._registered()
        host, port = self._listening().address
        return Metadata(host, port, pool.nonce, pool.blocks, pool.layout, pool.heads)

    def offered(self, metadata: bytes) -> Metadata:
        """What a peer offers; TransportError if it is none, or a pool with nothing in common with mine."""
        try:
            offered: Metadata = msgspec.msgpack.decode(metadata, type=self.described)
        except msgspec.MsgspecError as error:
            raise TransportError(f"these are not {self.name} metadata: {error}") from error
        walk_to(self._registered(), offered.placement)
        return offered

    def _registered(self) -> Pool:
        if self._pool is None:
            raise TransportError("no pool is registered")
        return self._pool

    def _listening(self) -> TcpOwner:
        if self._owner is None:
            raise TransportError("the transport was not started")
        return self._owner
