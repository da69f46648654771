"""NVLink: blocks go straight from this GPU into the peer's pool on another one. Same host only.

A kernel stores them; of long runs a copy engine takes its share.

The pool is plain device memory, mapped here by its CUDA IPC handle; the nonce behind its blocks proves that it is
still the pool that was offered. As with any mapping, only the writer's word or its end makes blocks of an aborted
write safe. Each pair is summed by a kernel here, and by the receiver over its own memory.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec
import numpy as np

from dynamoc.runtime.kv.cuda.batch import why_no_batches
from dynamoc.runtime.kv.cuda.copier import CTAS, Copier
from dynamoc.runtime.kv.cuda.copy_engine import EngineCopier
from dynamoc.runtime.kv.cuda.device import DeviceError, bus_address
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import Pool
from dynamoc.runtime.kv.transfer.checksums import Checksum
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, Indices
from dynamoc.runtime.transports.device_sums import DeviceSums
from dynamoc.runtime.transports.mapped import MappedDestination
from dynamoc.runtime.transports.nvlink_line import Line
from dynamoc.runtime.transports.nvlink_peer import NvlinkPeer, Offer
from dynamoc.runtime.transports.nvlink_probe import probe
from dynamoc.runtime.transports.nvlink_push import Push
from dynamoc.runtime.transports.process import check_same_host, has_ended, this_process
from dynamoc.runtime.transports.protocol import Peer, Transfer, TransportError
from dynamoc.runtime.transports.shards import offered_placement, walk_to
from dynamoc.runtime.transports.transfer import ThreadedTransfer, cancel_all, check_pairs, check_span

PART_BYTES = 256 << 20
"""0.75 ms at 360 GB/s; verified in 0.11 ms, and a message and the start of a kernel take some 0.3 ms. Of 1 GiB that
goes whole, parts of this size were ready after 3.4 ms, of half of it after 3.6, one part after 4.2."""
T = TypeVar("T")

log = logging.getLogger("dynamoc.transports.nvlink")


class NvlinkTransport(MappedDestination):
    """The event loop starts pushes and looks for their end; the device does what was started in order.

    What arrives is summed from there too: the hand-over of a prompt waits for no thread.
    """

    name = "nvlink"
    checksum = Checksum.SUMS
    part_bytes = PART_BYTES

    def __init__(self, key: bytes, ctas: int = CTAS, *, sums: bool = True) -> None:
        """Without `sums` nothing can be verified: only to measure what they cost."""
        del key  # the handle stands for it: it crosses the plane, which has proved the key
        self._ctas = ctas
        self._sums = sums
        self._pool: DevicePool | None = None
        self._copier: Copier | None = None
        self._received: DeviceSums | None = None
        self._line = Line()
        self._peers: list[NvlinkPeer] = []
        self._transfers: set[ThreadedTransfer] = set()

    def register(self, pool: Pool) -> None:
        """Make `pool` the source of writes and the memory peers may map."""
        if not isinstance(pool, DevicePool):
            raise TransportError("nvlink moves memory of GPUs, and this pool is memory of the host")
        self._pool = pool

    async def prepare(self, host: str) -> None:
        """Compile the kernels."""
        del host
        await self._ready()

    async def start(self, host: str, port: int) -> int | None:
        """Nothing listens: peers map the pool. Makes ready what verifies it."""
        del host, port
        await self._ready()
        return None

    def metadata(self) -> bytes:
        """Where peers find the pool."""
        pool = self._registered()
        try:
            offer = Offer(
                this_process(),
                pool.handle(),
                bus_address(pool.device),
                pool.nonce,
                pool.blocks,
                pool.layout,
                pool.heads,
            )
        except DeviceError as error:
            raise TransportError(str(error)) from error
        return msgspec.msgpack.encode(offer)

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Try the way in a child process, which may hang; then map the pool here."""
        try:
            offer = msgspec.msgpack.decode(metadata, type=Offer)
        except msgspec.MsgspecError as error:
            raise TransportError(f"these are not nvlink metadata: {error}") from error
        check_same_host(offer.process, self.name)
        pool = self._registered()
        placement = offered_placement(offer.layout, offer.heads, offer.blocks)
        walk_to(pool, placement)
        if has_ended(offer.process.encode()):
            raise TransportError(f"the pool of process {offer.process.pid} cannot be mapped: the process has ended")
        await probe(offer, pool.device, deadline_s)
        await self._ready()
        try:
            peer = await self._run(functools.partial(NvlinkPeer, offer, placement, pool.device, self._line))
        except (OSError, DeviceError) as error:
            raise TransportError(f"the pool of process {offer.process.pid} cannot be mapped: {error}") from error
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
        """Push my blocks into the peer's."""
        del tag
        assert isinstance(peer, NvlinkPeer)
        assert self._copier is not None  # there is no peer before
        pool = self._registered()
        check_pairs(pairs, pool.blocks, peer.blocks)
        span = check_span(pool.layout, layers)
        transfer = ThreadedTransfer(pairs, np.zeros((len(pairs), 2), np.uint64), deadline_s)
        way = walk_to(pool, peer.placement, layers)
        push = Push(transfer, self._copier, pool, peer, span, way, after, sums=self._sums)
        self._transfers.add(transfer)
        transfer.follow([self._line.add(push)] if len(pairs) else [])
        transfer.on_settled(lambda: self._transfers.discard(transfer))
        return transfer

    async def mismatches(
        self, blocks: Indices, checksums: bytes, layers: range | None = None, heads: Heads | None = None
    ) -> Indices:
        """Sum what arrived, on the device; `heads` are the writer's, if they are not mine."""
        await self._ready()
        assert self._received is not None
        return await self._received.mismatches(blocks, checksums, layers, heads)

    async def close(self) -> None:
        """Cancel what runs, wait until the device writes nothing any more, take all mappings back."""
        await cancel_all(self._transfers)
        for peer in self._peers:
            peer.close()
        ended, self._copier, self._received = (self._copier, self._received), None, None
        for one in ended:
            if one is not None:
                await self._run(one.close)
        await asyncio.to_thread(self._line.close)

    async def _ready(self) -> None:
        """Compile the kernels and allocate what they need, once."""
        if self._received is None:
            pool = self._registered()
            try:
                self._copier = await self._run(functools.partial(_copier, pool.device, self._ctas))
                self._received = DeviceSums(pool, await self._run(functools.partial(Copier, pool.device)))
            except DeviceError as error:
                raise TransportError(str(error)) from error

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._line.run(call))

    def _registered(self) -> DevicePool:
        if self._pool is None:
            raise TransportError("no pool is registered")
        return self._pool


def _copier(device: int, ctas: int) -> Copier:
    """With a copy engine, if the driver takes lists of copies."""
    if reason := why_no_batches():
        log.info("blocks are pushed by a kernel alone: %s", reason)
        return Copier(device, ctas)
    return EngineCopier(device, ctas)
