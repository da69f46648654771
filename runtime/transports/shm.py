"""Shared memory: the writer maps the peer's pool and copies blocks into it. Same host, same user only.

The pool is a memfd that its owner keeps open, reached as `/proc/<pid>/fd/<fd>`; the nonce in its first page proves
that it is still the pool that was offered. What is written cannot be called back by the owner, so `revoke` is
never conclusive here: blocks of an aborted write stay out of use until the writer says it stopped, or is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import mmap
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.pool import NONCE_BYTES, PAGE_BYTES, HostPool, Pool
from dynamoc.runtime.kv.transfer.checksums import Checksum, digest, unit_rows, units_of
from dynamoc.runtime.kv.transfer.cuts import Cut, mismatches
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, Indices
from dynamoc.runtime.kv.transfer.walk import Placement
from dynamoc.runtime.transports.mapped import MappedDestination
from dynamoc.runtime.transports.process import Process, Watched, check_same_host, this_process
from dynamoc.runtime.transports.protocol import Peer, Transfer, TransportError
from dynamoc.runtime.transports.shards import cut_from, cut_of, offered_placement, walk_to
from dynamoc.runtime.transports.transfer import (
    HOST_PART_BYTES,
    Digest,
    ThreadedTransfer,
    cancel_all,
    check_pairs,
    check_span,
    host_pool,
)

CHUNK_BYTES = 2 * 1024 * 1024
"""Copied between two looks at deadline, cancellation and peer."""
LANES = max(1, min(4, os.cpu_count() or 1))


class _Metadata(msgspec.Struct, frozen=True, array_like=True):
    process: Process
    uid: int
    fd: int
    nonce: bytes
    blocks: int
    layout: KvLayout
    heads: Heads

    @property
    def block_bytes(self) -> int:
        return self.layout.block_bytes


class ShmPeer(Watched):
    """The mapped pool of another process."""

    def __init__(self, offered: _Metadata, placement: Placement) -> None:
        super().__init__(offered.process)
        self.blocks = offered.blocks
        self.placement = placement
        self.data = memoryview(_map_pool(offered))[PAGE_BYTES:]

    def close(self) -> None:
        """Stop writing at the next check; the mapping goes with the last lane that uses it."""
        self.closed = True


class ShmTransport(MappedDestination):
    """Copies units of blocks in a few threads; the checksum is taken before, which brings the bytes into the cache."""

    name = "shm"
    checksum = Checksum.XXH3
    part_bytes = HOST_PART_BYTES

    def __init__(self, key: bytes, digest: Digest = digest) -> None:
        del key  # the kernel's permission check on /proc/<pid>/fd stands for it
        self._digest = digest
        self._pool: HostPool | None = None
        self._executor = ThreadPoolExecutor(LANES, thread_name_prefix="kv-copy")
        self._transfers: set[ThreadedTransfer] = set()

    def register(self, pool: Pool) -> None:
        """Make `pool` the source of writes and the memory peers may map."""
        self._pool = host_pool(pool, self.name)

    async def prepare(self, host: str) -> None:
        """Nothing takes long."""

    async def start(self, host: str, port: int) -> int | None:
        """Nothing listens: peers open the pool through /proc."""
        del host, port
        return None

    def metadata(self) -> bytes:
        """Where peers find the pool."""
        pool = self._registered()
        me = _Metadata(this_process(), os.getuid(), pool.fd, pool.nonce, pool.blocks, pool.layout, pool.heads)
        return msgspec.msgpack.encode(me)

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Map the pool another process offered; TransportError if it is not there any more, or not ours to map."""
        del deadline_s  # nothing here waits for anybody
        try:
            offered = msgspec.msgpack.decode(metadata, type=_Metadata)
        except msgspec.MsgspecError as error:
            raise TransportError(f"these are not shm metadata: {error}") from error
        check_same_host(offered.process, self.name)
        if offered.uid != os.getuid():
            raise TransportError(
                f"shm needs both workers to run as one user: the peer is {offered.uid}, I am {os.getuid()}"
            )
        placement = offered_placement(offered.layout, offered.heads, offered.blocks)
        walk_to(self._registered(), placement)
        try:
            return ShmPeer(offered, placement)
        except OSError as error:
            raise TransportError(f"the pool of process {offered.process.pid} cannot be mapped: {error}") from error

    def write(
        self,
        peer: Peer,
        pairs: BlockPairs,
        deadline_s: float,
        tag: int,
        layers: range | None = None,
        after: int | None = None,
    ) -> Transfer:
        """Copy my blocks onto the peer's."""
        del tag
        assert after is None  # host memory has no events
        assert isinstance(peer, ShmPeer)
        pool = self._registered()
        check_pairs(pairs, pool.blocks, peer.blocks)
        check_span(pool.layout, layers)
        way = walk_to(pool, peer.placement, layers)
        source = cut_of(pool.data, pool.layout, way, layers)
        target = cut_of(peer.data, peer.placement.layout, way, layers)
        units = list(enumerate(units_of(len(pairs), source.size)))
        step = max(1, CHUNK_BYTES // (source.size * unit_rows(source.size)))
        chunks = deque(units[start : start + step] for start in range(0, len(units), step))
        transfer = ThreadedTransfer(pairs, np.zeros(len(units), np.uint64), deadline_s)
        lane = functools.partial(_copy, transfer, source, peer, target, chunks, self._digest)
        self._transfers.add(transfer)
        transfer.run(self._executor, [lane] * min(LANES, len(chunks)))
        transfer.on_settled(lambda: self._transfers.discard(transfer))
        return transfer

    async def mismatches(
        self, blocks: Indices, checksums: bytes, layers: range | None = None, heads: Heads | None = None
    ) -> Indices:
        """Hash what arrived; `heads` are the writer's, if they are not mine."""
        return await asyncio.to_thread(mismatches, cut_from(self._registered(), heads, layers), blocks, checksums)

    async def close(self) -> None:
        """Cancel what runs, wait for the copying threads to stop."""
        await cancel_all(self._transfers)
        self._executor.shutdown()

    def _registered(self) -> HostPool:
        if self._pool is None:
            raise TransportError("no pool is registered")
        return self._pool


def _map_pool(offered: _Metadata) -> mmap.mmap:
    """The peer's pool, writable; OSError or TransportError if it is not the one that was offered."""
    pid = offered.process.pid
    fd = os.open(f"/proc/{pid}/fd/{offered.fd}", os.O_RDWR | os.O_CLOEXEC)
    try:
        size = PAGE_BYTES + offered.blocks * offered.block_bytes
        if os.fstat(fd).st_size != size or not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise TransportError(f"process {pid} holds something else where the offered pool was")
        mapped = mmap.mmap(fd, size)
    finally:
        os.close(fd)
    if mapped[:NONCE_BYTES] != offered.nonce:
        mapped.close()
        raise TransportError(f"process {pid} holds another pool than the offered one")
    return mapped


def _copy(
    transfer: ThreadedTransfer,
    source: Cut,
    peer: ShmPeer,
    target: Cut,
    chunks: deque[list[tuple[int, slice]]],
    digest: Digest,
) -> int:
    """One lane: take chunks of units until none is left; bytes moved."""
    pairs, sums, moved = transfer.pairs, transfer.checksums, 0
    while True:
        transfer.check()
        peer.check()
        try:
            chunk = chunks.popleft()
        except IndexError:
            return moved
        for unit, part in chunk:
            data = source.pick(pairs.sources[part])
            sums[unit] = digest(data)
            target.put(pairs.destinations[part], data)
            moved += data.nbytes
