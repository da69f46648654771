"""Shared memory: the writer maps the peer's pool and copies blocks into it. Same host, same user only.

The pool is a memfd that its owner keeps open, reached as `/proc/<pid>/fd/<fd>`; the nonce in its first page proves
that it is still the pool that was offered. What is written cannot be called back by the owner, so `revoke` is
never conclusive here: blocks of an aborted write stay out of use until the writer says it stopped, or is gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import functools
import mmap
import os
import select
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from dynamoc.runtime.kv.pool import NONCE_BYTES, PAGE_BYTES, HostPool
from dynamoc.runtime.transports.protocol import BlockPair, Outcome, Peer, Transfer, TransportError
from dynamoc.runtime.transports.transfer import Digest, Stopped, ThreadedTransfer, check_pairs

CHUNK_BYTES = 4 * 1024 * 1024
"""Copied between two looks at deadline, cancellation and peer."""
LANES = max(1, min(4, os.cpu_count() or 1))


class _Process(msgspec.Struct, frozen=True, array_like=True):
    """One life of one process on one boot of one host."""

    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int


class _Metadata(msgspec.Struct, frozen=True, array_like=True):
    process: _Process
    uid: int
    fd: int
    nonce: bytes
    blocks: int
    block_bytes: int


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on; OSError if there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@functools.cache
def _this_process() -> _Process:
    pid = os.getpid()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _Process(boot_id, str(Path("/proc/self/ns/pid").readlink()), pid, int(_stat(pid)[19]))


class _Pool:
    """A mapped pool as addresses and bytes."""

    def __init__(self, data: memoryview, block_bytes: int) -> None:
        self.data = data
        self.block_bytes = block_bytes
        self.address = int(np.frombuffer(data, np.uint8).ctypes.data) if len(data) else 0


class ShmPeer:
    """The mapped pool of another process."""

    def __init__(self, offered: _Metadata) -> None:
        self.blocks = offered.blocks
        self.block_bytes = offered.block_bytes
        self.closed = False
        self._pidfd = os.pidfd_open(offered.process.pid)
        weakref.finalize(self, os.close, self._pidfd)
        self.pool = _Pool(memoryview(_map_pool(offered))[PAGE_BYTES:], offered.block_bytes)

    def check(self) -> None:
        """Stopped if the peer was closed here or its process has ended."""
        if self.closed:
            raise Stopped(Outcome.FAILURE, "the peer was closed")
        ended = select.poll()  # one a call: lanes ask at the same time, and a poll object may not be shared
        ended.register(self._pidfd, select.POLLIN)
        if ended.poll(0):
            raise Stopped(Outcome.FAILURE, "the peer's process has ended")

    def close(self) -> None:
        """Stop writing at the next check; the mapping goes with the last lane that uses it."""
        self.closed = True


class ShmTransport:
    """Copies by memmove in a few threads; checksums are taken while the block is in the cache."""

    name = "shm"

    def __init__(self, key: bytes, digest: Digest = xxhash.xxh3_64_intdigest) -> None:
        del key  # the kernel's permission check on /proc/<pid>/fd stands for it
        self._digest = digest
        self._pool: HostPool | None = None
        self._executor = ThreadPoolExecutor(LANES, thread_name_prefix="kv-copy")
        self._transfers: set[ThreadedTransfer] = set()

    def register(self, pool: HostPool) -> None:
        """Make `pool` the source of writes and the memory peers may map."""
        self._pool = pool

    async def start(self, host: str, port: int) -> int | None:
        """Nothing listens: peers open the pool through /proc."""
        del host, port
        return None

    def metadata(self) -> bytes:
        """Where peers find the pool."""
        pool = self._registered()
        me = _Metadata(_this_process(), os.getuid(), pool.fd, pool.nonce, pool.blocks, pool.layout.block_bytes)
        return msgspec.msgpack.encode(me)

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Map the pool another process offered; TransportError if it is not there any more, or not ours to map."""
        del deadline_s  # nothing here waits for anybody
        try:
            offered = msgspec.msgpack.decode(metadata, type=_Metadata)
        except msgspec.MsgspecError as error:
            raise TransportError(f"these are not shm metadata: {error}") from error
        _check_reachable(offered)
        if offered.block_bytes != self._registered().layout.block_bytes:
            mine = self._registered().layout.block_bytes
            raise TransportError(f"the peer's blocks have {offered.block_bytes} bytes, mine {mine}")
        try:
            return ShmPeer(offered)
        except OSError as error:
            raise TransportError(f"the pool of process {offered.process.pid} cannot be mapped: {error}") from error

    def write(self, peer: Peer, pairs: Sequence[BlockPair], deadline_s: float, tag: int) -> Transfer:
        """Copy my blocks onto the peer's."""
        del tag
        assert isinstance(peer, ShmPeer)
        pool = self._registered()
        check_pairs(pairs, pool.blocks, peer.blocks)
        source = _Pool(pool.data, pool.layout.block_bytes)
        transfer = ThreadedTransfer(pairs, source.block_bytes, deadline_s)
        step = max(1, CHUNK_BYTES // source.block_bytes)
        chunks = deque(range(start, min(start + step, len(pairs))) for start in range(0, len(pairs), step))
        lane = functools.partial(_copy, transfer, source, peer, chunks, self._digest)
        self._transfers.add(transfer)
        transfer.run(self._executor, [lane] * min(LANES, len(chunks)))
        transfer.on_settled(lambda: self._transfers.discard(transfer))
        return transfer

    def expect(self, tag: int, blocks: Sequence[int]) -> None:
        """Nothing to prepare: a peer that mapped the pool can write."""

    async def revoke(self, tag: int) -> bool:
        """A mapping cannot be taken back: the writer must say that it stopped."""
        del tag
        return False

    def writer(self) -> bytes:
        """This process, so that a peer can see when it has ended."""
        return msgspec.msgpack.encode(_this_process())

    def writer_gone(self, writer: bytes) -> bool:
        """Whether that process has ended; its mappings ended with it."""
        process = msgspec.msgpack.decode(writer, type=_Process)
        here = _this_process()
        if (process.boot_id, process.pid_namespace) != (here.boot_id, here.pid_namespace):
            return False
        try:
            state, *_ = fields = _stat(process.pid)
        except OSError:
            return True
        threads_left = int(fields[17])
        return int(fields[19]) != process.start_ticks or (state in "ZX" and threads_left <= 1)

    async def close(self) -> None:
        """Cancel what runs, wait for the copying threads to stop."""
        running = list(self._transfers)
        for transfer in running:
            transfer.cancel()
        await asyncio.gather(*(transfer.wait() for transfer in running))
        self._executor.shutdown()

    def _registered(self) -> HostPool:
        if self._pool is None:
            raise TransportError("no pool is registered")
        return self._pool


def _check_reachable(offered: _Metadata) -> None:
    here = _this_process()
    if offered.process.boot_id != here.boot_id:
        raise TransportError("shm needs both workers on one host, and the peer's is another one")
    if offered.process.pid_namespace != here.pid_namespace:
        raise TransportError("shm needs both workers in one pid namespace, and the peer's is another one")
    if offered.uid != os.getuid():
        raise TransportError(
            f"shm needs both workers to run as one user: the peer is {offered.uid}, I am {os.getuid()}"
        )


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


def _copy(transfer: ThreadedTransfer, source: _Pool, peer: ShmPeer, chunks: deque[range], digest: Digest) -> int:
    """One lane: take chunks until none is left. A block is copied, then hashed while it is still in the cache."""
    size, move = source.block_bytes, ctypes.memmove
    data, from_, to = source.data, source.address, peer.pool.address
    moved = 0
    while True:
        transfer.check()
        peer.check()
        try:
            chunk = chunks.popleft()
        except IndexError:
            return moved
        for index in chunk:
            pair = transfer.pairs[index]
            offset = pair.source * size
            move(to + pair.destination * size, from_ + offset, size)
            transfer.checksums[index] = digest(data[offset : offset + size])
        moved += len(chunk)
