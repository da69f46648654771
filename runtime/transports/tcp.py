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
import numpy as np

from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import HostPool, Pool
from dynamoc.runtime.kv.transfer.checksums import Checksum, digest, unit_rows
from dynamoc.runtime.kv.transfer.cuts import mismatches
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.protocol import Peer, Transfer, TransportError
from dynamoc.runtime.transports.shards import cut_from, cut_of, walk_to
from dynamoc.runtime.transports.tcp_owner import TcpOwner
from dynamoc.runtime.transports.tcp_writer import STREAMS, Lane, Metadata, TcpPeer
from dynamoc.runtime.transports.transfer import (
    HOST_PART_BYTES,
    Digest,
    ThreadedTransfer,
    cancel_all,
    check_pairs,
    check_span,
    host_pool,
)

STREAM_BYTES = 8 * 1024 * 1024
"""A transfer is split over a further stream for every so many bytes."""


class TcpTransport:
    """Streams blocks to peers, and owns the listening end of its own pool."""

    name = "tcp"
    checksum = Checksum.XXH3
    part_bytes = HOST_PART_BYTES

    def __init__(self, key: bytes, digest: Digest = digest) -> None:
        self._key = key
        self._digest = digest
        self._pool: HostPool | None = None
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
        pool = self._registered()
        host, port = self._listening().address
        return msgspec.msgpack.encode(Metadata(host, port, pool.nonce, pool.blocks, pool.layout, pool.heads))

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
        assert after is None  # host memory has no events
        assert isinstance(peer, TcpPeer)
        pool = self._registered()
        check_pairs(pairs, pool.blocks, peer.blocks)
        check_span(pool.layout, layers)
        cut = cut_of(pool.data, pool.layout, walk_to(pool, peer.placement, layers), layers)
        units = -(-len(pairs) // unit_rows(cut.size))
        transfer = ThreadedTransfer(pairs, np.zeros(units, np.uint64), deadline_s)
        count = min(STREAMS, units, 1 + len(pairs) * cut.size // STREAM_BYTES)
        bounds = [units * lane // count for lane in range(count + 1)] if count else [0]
        shares = [range(start, end) for start, end in itertools.pairwise(bounds)]
        self._transfers.add(transfer)
        named = range(pool.layout.layers) if layers is None else layers
        lanes = [self.lane(transfer, peer, share, cut, named, pool.heads, tag, self._digest) for share in shares]
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
        return await asyncio.to_thread(mismatches, cut_from(self._registered(), heads, layers), blocks, checksums)

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

    lane: type[Lane] = Lane

    def owner(self, listener: socket.socket) -> TcpOwner:
        """The listening end."""
        return TcpOwner(self._key, self._registered(), listener)

    def peer(self, offered: Metadata) -> TcpPeer:
        """The other end of a pool that was offered."""
        return TcpPeer(self._key, offered)

    def offered(self, metadata: bytes) -> Metadata:
        """What a peer offers; TransportError if it is none, or a pool with nothing in common with mine."""
        try:
            offered = msgspec.msgpack.decode(metadata, type=Metadata)
        except msgspec.MsgspecError as error:
            raise TransportError(f"these are not {self.name} metadata: {error}") from error
        walk_to(self._registered(), offered.placement)
        return offered

    def _registered(self) -> HostPool:
        if self._pool is None:
            raise TransportError("no pool is registered")
        return self._pool

    def _listening(self) -> TcpOwner:
        if self._owner is None:
            raise TransportError("the transport was not started")
        return self._owner
