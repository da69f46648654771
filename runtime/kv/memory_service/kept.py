"""A pool that is there again after its worker's end, with a journal of what its blocks hold."""

from __future__ import annotations

import importlib
import logging
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import xxhash

from dynamoc.runtime import environment
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service import journal
from dynamoc.runtime.kv.memory_service.journal import Contents, Journal, JournalError
from dynamoc.runtime.kv.memory_service.memory import memory_of
from dynamoc.runtime.kv.memory_service.messages import Keep
from dynamoc.runtime.kv.memory_service.place import Place, where_is
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.manifest import WorkerSettings

WAIT_S = 20.0
"""How long the life before may take to be gone."""
DIGEST_THREADS = 4
MANY_BYTES = 256 << 20
"""Worth threads of their own."""

log = logging.getLogger("dynamoc.engine")


def keep_as(meaning: str, settings: WorkerSettings) -> str:
    """The identity of a worker's pool; ValueError if nothing would be found in it again."""
    if not settings.kv.prefix_caching:
        raise ValueError("`kv: kept` keeps nothing: the worker has no prefix cache (`prefix_caching: false`)")
    return f"{meaning} over {settings.transport}"


@dataclass(frozen=True, slots=True)
class KeptShape:
    """What is kept: `blocks` of `layout`, whose bytes mean nothing under another `identity`."""

    layout: KvLayout
    blocks: int
    identity: str
    device: int | None = None

    def ask(self, name: str, limit_s: float, *, fresh: bool) -> Keep:
        """For the pool of a worker of that name."""
        identity = f"{journal.VERSION} {self.identity} {self.layout} {self.blocks}"
        kind = HostPool if self.device is None else DevicePool
        return Keep(name, identity, kind.size_of(self.layout, self.blocks), self.journal_bytes, fresh, limit_s)

    @property
    def journal_bytes(self) -> int:
        """Of host memory, wherever the pool is."""
        return Journal.size(self.blocks, self.layout.block_size)


class Digests(Protocol):
    """Names bytes of a pool as they are now; equal bytes, equal name."""

    def of(self, blocks: Sequence[int]) -> list[bytes]:
        """Of each block."""
        ...

    def close(self) -> None:
        """Let go of what it takes."""
        ...


class HostDigests:
    """One hash a block."""

    def __init__(self, pool: HostPool) -> None:
        self._pool = pool

    def of(self, blocks: Sequence[int]) -> list[bytes]:
        """By several threads, where that is worth it."""
        if len(blocks) * self._pool.layout.block_bytes < MANY_BYTES:
            return [self._digest(block) for block in blocks]
        with ThreadPoolExecutor(DIGEST_THREADS) as threads:
            return list(threads.map(self._digest, blocks))

    def close(self) -> None:
        """There is nothing."""

    def _digest(self, block: int) -> bytes:
        return xxhash.xxh3_128_digest(self._pool.block(block))


def digests_on(pool: DevicePool) -> Digests:
    """Of a GPU's pool."""
    made: Digests = importlib.import_module("dynamoc.runtime.kv.memory_service.device").DeviceDigests(pool)
    return made


class KeptPool:
    """The pool and its journal, this worker's until `close`. `left` is what its earlier lives left there."""

    def __init__(self, shape: KeptShape, limit_s: float = WAIT_S) -> None:
        """ValueError outside a run; MemoryServiceError, WireError, OSError."""
        run_dir, name = environment.read("DYNAMOC_RUN_DIR"), environment.read("DYNAMOC_PROCESS")
        if run_dir is None or name is None:
            raise ValueError("`kv: kept` needs a run folder, and an agent that starts this worker again")
        self.left = Contents()
        self.lost_because = ""
        """Why what was there, if anything was, could not be taken over."""
        self.pool: HostPool | DevicePool
        self._place = Place(Path(run_dir), where_is(shape.device), shape.device)
        self._shape = shape
        self._open(name, limit_s, fresh=False)
        try:
            self.left = self.journal.read()
        except JournalError as error:
            self.lost_because = "journal"
            log.warning("the kept KV pool begins anew: of its journal, %s", error)
            self.close()
            self._open(name, limit_s, fresh=True)

    def digests(self, blocks: Sequence[int]) -> list[bytes]:
        """Of the bytes of these blocks, which are whole once what was begun is done."""
        return self._digests.of(blocks)

    def is_kept(self) -> bool:
        """Whether its owner is still there: else this pool ends with its worker."""
        return self._session.is_open()

    def close(self) -> None:
        """Let the next life have it. Nothing may be reading or writing it."""
        self._digests.close()
        self.pool.close()
        self._journal.release()
        self._session.close()

    def _open(self, name: str, limit_s: float, *, fresh: bool) -> None:
        shape = self._shape
        self._session = self._place.session(memory_of(shape.device))
        try:
            kept, fds = self._session.keep(shape.ask(name, limit_s, fresh=fresh))
        except BaseException:
            self._session.close()
            raise
        if kept.was == "other" and not fresh:
            self.lost_because = "other"
            log.warning("the kept KV pool begins anew: what was there is of another model, layout or size")
        self._journal = memoryview(mmap.mmap(fds[-1], shape.journal_bytes))
        os.close(fds[-1])
        self.journal = Journal(self._journal, shape.blocks, shape.layout.block_size)
        if shape.device is None:
            self.pool = pool = HostPool(shape.layout, shape.blocks, fd=fds[0])
            self._digests: Digests = HostDigests(pool)
        else:
            self.pool = DevicePool(shape.layout, shape.blocks, shape.device, handle=kept.handle)
            self._digests = digests_on(self.pool)
