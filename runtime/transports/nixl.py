"""NIXL: blocks cross in few large runs by UCX, over RDMA where there is some; transfers are agreed on as with tcp.

The writer packs blocks into a slot of registered memory, writes the slot into one of the owner's, and says over its
connection that it arrived; the owner puts the blocks where they belong, if it still expects them. So a revocation holds
at once, although a write that UCX has begun cannot be called back: it ends in a slot, never in the pool.

Slots are memory of the kind that the pool is, of the host or of its GPU, and the same at both ends.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable

import msgspec

from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import Pool
from dynamoc.runtime.kv.transfer.checksums import Checksum, digest
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports.nixl_agent import Agent, interface_towards
from dynamoc.runtime.transports.nixl_device import DeviceMemory, DevicePacker
from dynamoc.runtime.transports.nixl_end import End
from dynamoc.runtime.transports.nixl_host import HostPacker
from dynamoc.runtime.transports.nixl_lane import NixlLane
from dynamoc.runtime.transports.nixl_owner import StagingOwner
from dynamoc.runtime.transports.nixl_packer import Packer
from dynamoc.runtime.transports.nixl_probe import probe
from dynamoc.runtime.transports.nixl_staging import Memory, NixlMetadata
from dynamoc.runtime.transports.nixl_writer import NixlPeer
from dynamoc.runtime.transports.protocol import Peer, TransportError
from dynamoc.runtime.transports.tcp import TcpTransport
from dynamoc.runtime.transports.tcp_owner import TcpOwner
from dynamoc.runtime.transports.tcp_writer import Lane, Metadata, Sending, TcpPeer
from dynamoc.runtime.transports.transfer import Digest, host_pool

_MEMORY = {Checksum.XXH3: "the host", Checksum.SUMS: "a GPU"}


def packer_for(pool: Pool, digest: Digest) -> Packer:
    """What suits the pool's memory."""
    if isinstance(pool, DevicePool):
        return DevicePacker(pool, DeviceMemory(pool.device))
    return HostPacker(host_pool(pool, "nixl"), digest)


def _make_end(interface: str, memory: Memory) -> End:
    memory.use()
    return End(Agent(secrets.token_hex(8), interface), memory)


class NixlTransport(TcpTransport):
    """Its agent, if none is given, is made on the interface of the plane once a probe has shown that the way works."""

    name = "nixl"
    described = NixlMetadata

    def __init__(
        self,
        key: bytes,
        digest: Digest = digest,
        end: End | None = None,
        packers: Callable[[Pool, Digest], Packer] = packer_for,
    ) -> None:
        super().__init__(key, digest)
        self.end = end
        self._packers = packers
        self._packer: Packer | None = None
        self._making = asyncio.Lock()

    def register(self, pool: Pool) -> None:
        """Make `pool` the source of writes, and after `start` a destination."""
        self._packer = packer = self._packers(pool, self._digest)
        self._pool = pool
        self.checksum, self.part_bytes, self.streams = packer.checksum, packer.part_bytes, packer.streams

    async def prepare(self, host: str) -> None:
        """Try the way in a child process, which may hang; then make the agent. TransportError."""
        packer = self._packing()
        async with self._making:
            if self.end is None:
                interface = interface_towards(host)
                await probe(interface, packer.memory.device)
                self.end = await asyncio.to_thread(_make_end, interface, packer.memory)
            await asyncio.to_thread(packer.prepare)

    async def start(self, host: str, port: int) -> int | None:
        """Listen for writers on exactly `host:port`; TransportError if NIXL does not work here."""
        await self.prepare(host)
        return await super().start(host, port)

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Open the first data connection, prove both ends, and get slots there."""
        offered = self.offered(metadata)
        await self.prepare(offered.host)
        return await super().connect(metadata, deadline_s)

    async def mismatches(
        self, blocks: Indices, checksums: bytes, layers: range | None = None, heads: Heads | None = None
    ) -> Indices:
        """As the pool's memory is verified."""
        return await self._packing().mismatches(blocks, checksums, layers, heads)

    async def close(self) -> None:
        """As tcp does; then let go of the device, but for stages, into which peers may still write."""
        await super().close()
        if self._packer is not None:
            await asyncio.to_thread(self._packer.close)

    def lane(self, sending: Sending, units: range) -> Lane:
        """What sends these units."""
        return NixlLane(sending, units, self._packing())

    def owner(self, listener: socket.socket) -> TcpOwner:
        """The listening end."""
        pool = self._registered()
        assert self.end is not None  # `start` made it
        attach = StagingOwner(self.end, self._packing(), pool.layout.block_bytes).attach
        return TcpOwner(self._key, pool, listener, attach)

    def peer(self, offered: Metadata) -> TcpPeer:
        """The other end of a pool that was offered."""
        assert self.end is not None  # `connect` made it
        assert isinstance(offered, NixlMetadata)
        return NixlPeer(self._key, offered, self.end, self.streams)

    def offer(self) -> Metadata:
        """My pool."""
        assert self.end is not None  # `start` made it
        return NixlMetadata(
            **msgspec.structs.asdict(super().offer()), checksum=self.checksum, agent=self.end.agent.name
        )

    def offered(self, metadata: bytes) -> Metadata:
        """What a peer offers; TransportError if it is none, or one into which I cannot write."""
        offered = super().offered(metadata)
        assert isinstance(offered, NixlMetadata)
        if offered.checksum is not self._packing().checksum:
            theirs, mine = (_MEMORY[checksum] for checksum in (offered.checksum, self.checksum))
            raise TransportError(f"the peer's pool is memory of {theirs}, mine of {mine}: nixl joins pools of one kind")
        return offered

    def _packing(self) -> Packer:
        if self._packer is None:
            raise TransportError("no pool is registered")
        return self._packer
