"""The seam behind which KV blocks move from the pool of one worker into the pool of another.

A write is *pushed* by the prefill worker. Its completion is one of success, failure or cancelled, and never a
guess: `SUCCESS` means every byte is in the destination's memory; `FAILURE` and `CANCELLED` mean that the writer
has stopped for good.

The destination *expects* a write under a tag, and *revokes* the tag before it gives the blocks to anyone else.
Where bytes may be under way behind the writer's back (tcp), `revoke` is what makes the blocks safe; where the
writer stores straight into the destination's memory (shm), only the writer's word or its end does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from dynamoc.runtime.kv.pool import HostPool


class TransportError(RuntimeError):
    """The path cannot be used, or stopped working; the message says why."""


class Outcome(StrEnum):
    """How a transfer ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class BlockPair:
    """Copy block `source` of my pool onto block `destination` of the peer's."""

    source: int
    destination: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of a transfer. `checksums`: one xxh3-64 per pair, of the source bytes as they were sent."""

    outcome: Outcome
    moved_bytes: int
    seconds: float
    checksums: tuple[int, ...] = ()
    reason: str = ""


class Peer(Protocol):
    """A connected remote pool."""

    blocks: int

    def close(self) -> None:
        """Forget the peer; running writes to it end as FAILURE."""
        ...


class Transfer(Protocol):
    """A write under way."""

    async def wait(self) -> Completion:
        """The truth, once it is known; may be awaited more than once. Never raises for a failed transfer."""
        ...

    def cancel(self) -> None:
        """Ask it to stop. Only the completion says whether it did; a transfer that finished stays finished."""
        ...


class Transport(Protocol):
    """One way to move blocks. Used from one event loop; copies run in threads and release the GIL."""

    name: str

    def register(self, pool: HostPool) -> None:
        """Make a pool the source of writes and a possible destination. Call once, before `metadata`."""
        ...

    async def start(self, host: str, port: int) -> int | None:
        """Begin to accept writes from peers; the port it listens on, or None if it needs none. OSError."""
        ...

    def metadata(self) -> bytes:
        """What a peer needs to reach my pool. Call after `start`."""
        ...

    async def connect(self, metadata: bytes, deadline_s: float) -> Peer:
        """Reach a peer's pool and prove it is the one meant; TransportError if it cannot be reached."""
        ...

    def write(self, peer: Peer, pairs: Sequence[BlockPair], deadline_s: float, tag: int) -> Transfer:
        """Start copying my blocks onto the peer's. Past the deadline the transfer ends as FAILURE by itself.

        TransportError, and nothing written, if a block is out of range or a destination is named twice.
        """
        ...

    def expect(self, tag: int, blocks: Sequence[int]) -> None:
        """Let a peer write these blocks of my pool under `tag`, which is never used twice."""
        ...

    async def revoke(self, tag: int) -> bool:
        """End what `expect` allowed. True: nothing writes under `tag` from now on. False: the writer must say so."""
        ...

    def writer(self) -> bytes:
        """Who writes when this process does: what `writer_gone` of a peer needs; empty if revoking is enough."""
        ...

    def writer_gone(self, writer: bytes) -> bool:
        """Whether the process that gave this `writer` has ended, so that it cannot write any more."""
        ...

    async def close(self) -> None:
        """Stop all transfers, wait until none writes any more, and release everything."""
        ...
