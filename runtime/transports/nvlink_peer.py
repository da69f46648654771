"""The mapped pool of a peer, and what it was offered as."""

from __future__ import annotations

import msgspec

from dynamoc.runtime.kv.cuda.pool import MappedPool
from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.transfer.walk import Placement
from dynamoc.runtime.transports.nvlink_line import Line
from dynamoc.runtime.transports.process import Process, Watched
from dynamoc.runtime.transports.protocol import TransportError


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """What a writer needs to map a pool. `bus` is the owner's GPU on this host."""

    process: Process
    handle: bytes
    bus: str
    nonce: bytes
    blocks: int
    layout: KvLayout
    heads: Heads

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.layout.block_bytes

    @property
    def data_bytes(self) -> int:
        """Bytes of all blocks."""
        return self.blocks * self.block_bytes


def map_offered(offer: Offer, device: int) -> MappedPool:
    """The pool, reachable from `device`; DeviceError, or TransportError if it is not the one that was offered."""
    mapped = MappedPool(offer.handle, device)
    if mapped.nonce(offer.data_bytes) != offer.nonce:
        mapped.close()
        raise TransportError(f"process {offer.process.pid} holds another pool than the offered one")
    return mapped


class NvlinkPeer(Watched):
    """A pool that this process writes to. All work with it, and its end, pass through one line."""

    def __init__(self, offer: Offer, placement: Placement, device: int, line: Line) -> None:
        super().__init__(offer.process)
        self.blocks = offer.blocks
        self.placement = placement
        self._line = line
        self._mapped = map_offered(offer, device)
        self.address = self._mapped.address

    def close(self) -> None:
        """Stop writing at the next check, then take the mapping back."""
        if not self.closed:
            self.closed = True
            self._line.run(self._mapped.close)
