"""The seam behind which KV blocks move from the pool of one worker into the pool of another.

A write is *pushed* by the prefill worker. Its completion is one of success, failure or cancelled, and never a
guess: `SUCCESS` means every byte is in the destination's memory; `FAILURE` and `CANCELLED` mean that the writer
has stopped for good.

The destination *expects* a write under a tag, and *revokes* the tag before it gives the blocks to anyone else.
Where bytes may be under way behind the writer's back (tcp), `revoke` is what makes the blocks safe; where the
writer stores straight into the destination's memory (shm, nvlink), only the writer's word or its end does.

A write may carry some layers of its blocks: the rest follows in further writes under the same tag. Where the peer's
pool has other heads of the model, it carries those that both have, into their places there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import Pool
from dynamoc.runtime.kv.transfer.checksums import Checksum, Table
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, Indices


class TransportError(RuntimeError):
    """The path cannot be used, or stopped working; the message says why."""


class Outcome(StrEnum):
    """How a transfer ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What came of a transfer.

    `seconds`: from the call, or from the event it came after where that passed later. `checksums`: the transport's, of
    the source bytes as sent; empty but on success.
    """

    outcome: Outcome
    moved_bytes: int
    seconds: float
    checksums: Table = field(default_factory=lambda: np.empty(0, np.uint64))
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
    checksum: Checksum
    """What `Completion.checksums` holds, and `mismatches` takes."""
    part_bytes: int
    """Of a large write, so much is worth a write of its own, which is verified while the next is under way."""

    def register(self, pool: Pool) -> None:
        """Make a pool the source of writes and a possible destination. Call once, before anything else.

        TransportError if this transport does not reach that kind of memory.
        """
        ...

    async def prepare(self, host: str) -> None:
        """Make ready, at the address of this worker, what would keep a first peer waiting. TransportError."""
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

    def write(
        self,
        peer: Peer,
        pairs: BlockPairs,
        deadline_s: float,
        tag: int,
        layers: range | None = None,
        after: int | None = None,
    ) -> Transfer:
        """Start copying my blocks, or `layers` of them, onto the peer's; `after` an event of my pool's GPU, if given.

        Past the deadline the transfer ends as FAILURE by itself. TransportError, and nothing written, if a block is
        out of range or a destination is named twice.
        """
        ...

    def expect(self, tag: int, blocks: Sequence[int]) -> None:
        """Let a peer write these blocks of my pool under `tag`, which is never used twice."""
        ...

    async def revoke(self, tag: int) -> bool:
        """End what `expect` allowed. True: nothing writes under `tag` from now on. False: the writer must say so."""
        ...

    async def mismatches(
        self, blocks: Indices, checksums: bytes, layers: range | None = None, heads: Heads | None = None
    ) -> Indices:
        """Which of these blocks of my pool do not hold what was sent; `blocks` and `layers` are those of one write.

        `checksums` are the writer's, words little-endian; `heads` too, if they are not mine. All blocks if there are
        too few checksums or too many of them. TransportError if a writer with these heads sends me nothing.
        """
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
