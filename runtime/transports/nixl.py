"""NIXL: blocks cross in few large runs by UCX, over RDMA where there is some; transfers are agreed on as with tcp.

The writer gathers blocks into a slot of registered memory, writes the slot into one of the owner's, and says over its
connection that it arrived; the owner puts the blocks where they belong, if it still expects them. So a revocation holds
at once, although a write that UCX has begun cannot be called back: it ends in a slot, never in the pool.
"""

from __future__ import annotations

import asyncio
import secrets
import socket

from dynamoc.runtime.kv.transfer.checksums import digest
from dynamoc.runtime.transports.nixl_agent import Agent, interface_towards
from dynamoc.runtime.transports.nixl_owner import StagingOwner
from dynamoc.runtime.transports.nixl_probe import probe
from dynamoc.runtime.transports.nixl_staging import End
from dynamoc.runtime.transports.nixl_writer import NixlLane, NixlPeer
from dynamoc.runtime.transports.protocol import Peer
from dynamoc.runtime.transports.tcp import TcpTransport
from dynamoc.runtime.transports.tcp_owner import TcpOwner
from dynamoc.runtime.transports.tcp_writer import Lane, Metadata, TcpPeer
from dynamoc.runtime.transports.transfer import Digest


class NixlTransport(TcpTransport):
    """Its agent, if none is given, is made on the interface of the plane once a probe has shown that the way works."""

    name = "nixl"
    lane: type[Lane] = NixlLane

    def __init__(self, key: bytes, digest: Digest = digest, end: End | None = None) -> None:
        super().__init__(key, digest)
        self.end = end
        self._making = asyncio.Lock()

    async def prepare(self, host: str) -> None:
        """Try the way in a child process, which may hang; then make the agent. TransportError."""
        async with self._making:
            if self.end is None:
                interface = interface_towards(host)
                await probe(interface)
                self.end = End(await asyncio.to_thread(Agent, secrets.token_hex(8), interface))

    async def start(self, host: str, port: int) -> int | None:
        """Listen for writers on exactly `host:port`; TransportError if NIXL does not work here."""
        await self.prepare(host)
        return await super().start(host, port)

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Open the first data connection, prove both ends, and get slots there."""
        offered = self.offered(metadata)
        await self.prepare(offered.host)
        return await super().connect(metadata, deadline_s)

    def owner(self, listener: socket.socket) -> TcpOwner:
        """The listening end."""
        pool = self._registered()
        assert self.end is not None  # `start` made it
        return TcpOwner(self._key, pool, listener, StagingOwner(self.end, pool.layout.block_bytes).attach)

    def peer(self, offered: Metadata) -> TcpPeer:
        """The other end of a pool that was offered."""
        assert self.end is not None  # `connect` made it
        return NixlPeer(self._key, offered, self.end)
