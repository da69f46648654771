"""How blocks of a pool get into slots and out of them: the seam between nixl and the memory it moves."""

from __future__ import annotations

from typing import Protocol

from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.transfer.checksums import Checksum, Table
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_staging import Memory, Slots, Stage
from dynamoc.runtime.transports.shards import Portion


class Packing(Protocol):
    """A slot that is being filled."""

    def is_done(self) -> bool:
        """Whether it is full, and its checksums are there; TransportError if it will not be."""
        ...

    def settle(self) -> None:
        """Wait until no block is read any more, whatever came of it."""
        ...


class Packer(Protocol):
    """For one pool. Used from many threads, each with its stage."""

    checksum: Checksum
    part_bytes: int
    streams: int
    """Connections to a peer, each with a thread of its own."""
    slots: Slots
    """At least: a block that is larger has a slot of its own size."""
    spin_s: float
    """How long a wait looks without pause."""

    @property
    def memory(self) -> Memory:
        """Of the stages it can use."""
        ...

    def prepare(self) -> None:
        """What takes long, once; TransportError."""
        ...

    def await_event(self, event: int, check: wire.Check) -> None:
        """Until what comes before an event of the pool's device is done; TransportError, or what `check` raises."""
        ...

    def pack(
        self, stage: Stage, turn: int, portion: Portion, blocks: Indices, sums: Table, check: wire.Check
    ) -> Packing:
        """Begin to fill the slot of a turn with these blocks, and `sums` with their checksums.

        TransportError, or what `check` raises: then nothing has begun.
        """
        ...

    def unpack(self, stage: Stage, turn: int, portion: Portion, blocks: Indices) -> None:
        """Put what is in a slot into these blocks. From the return on nothing is written any more; TransportError."""
        ...

    async def mismatches(self, blocks: Indices, checksums: bytes, layers: range | None, heads: Heads | None) -> Indices:
        """As `Transport.mismatches`."""
        ...

    def close(self) -> None:
        """Release what it has of its own; no stage."""
        ...
