"""Registered memory through which blocks pass: slots at both ends, each written in one run.

Which memory that is, and how blocks get into slots and out of them, is up to a `Packer`.

A peer never writes into the pool itself: a write that was given up may still arrive. It then hits slots that nobody
uses again until nothing of it can be under way; the pool's blocks are safe at once.
"""

from __future__ import annotations

import mmap
import socket
import struct
import threading
from typing import Protocol, TypeVar

import msgspec

from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.transfer.checksums import Checksum, Table
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import Agent, Place
from dynamoc.runtime.transports.process import Process
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.shards import Portion
from dynamoc.runtime.transports.tcp_writer import Metadata

SLOTS = 2
"""One is filled or emptied while the other is written."""
MAX_STAGES = 64
"""At either end; a connection uses one."""
_LENGTH = struct.Struct("<I")
_MAX_FRAME_BYTES = 1 << 16
F = TypeVar("F", bound=msgspec.Struct)


class NixlMetadata(Metadata, frozen=True, array_like=True):
    """Beside what tcp says: what the owner verifies by, which tells memory of GPUs from the host's, and its agent."""

    checksum: Checksum
    agent: str


class Attach(msgspec.Struct, frozen=True, array_like=True):
    """The first words of `writer` on a connection: nothing is under way any more to stages leased under `quiet`.

    A `is_line` carries nothing. Only the end of the writer's process ends it, and so tells the owner of it.
    """

    writer: Process
    quiet: tuple[int, ...] = ()
    is_line: bool = False


class Leased(msgspec.Struct, frozen=True, array_like=True):
    """The owner's answer: where this connection's slots are, and whether it wants a line from this writer."""

    lease: int
    wants_line: bool
    metadata: bytes
    place: Place
    slot_bytes: int


class Stage:
    """`SLOTS` slots one after another, from `place` on."""

    def __init__(self, agent: Agent, place: Place, slot_bytes: int) -> None:
        """TransportError if it cannot be registered."""
        self.place = place
        self.slot_bytes = slot_bytes
        self.metadata = agent.register(place, SLOTS * slot_bytes)

    def slot(self, number: int) -> Place:
        """Where one begins."""
        return self.place.after(number * self.slot_bytes)


class Memory(Protocol):
    """Where stages are made."""

    @property
    def device(self) -> int | None:
        """The GPU whose memory it is, if it is one's."""
        ...

    def use(self) -> None:
        """Say that this thread works with it, before UCX is called from here; TransportError."""
        ...

    def stage(self, agent: Agent, slot_bytes: int) -> Stage:
        """A new one, registered; TransportError."""
        ...


class Packer(Protocol):
    """Puts blocks of one pool into slots, and takes them out again. Used from many threads, each with its stage."""

    checksum: Checksum
    part_bytes: int
    slot_bytes: int
    """Enough to fill a link; a block that is larger has a slot of its own size."""

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

    def pack(self, stage: Stage, slot: int, portion: Portion, blocks: Indices, sums: Table, check: wire.Check) -> None:
        """Fill the beginning of a slot with these blocks, and `sums` with their checksums.

        TransportError, or what `check` raises. From the end on no block is read any more.
        """
        ...

    def unpack(self, stage: Stage, slot: int, portion: Portion, blocks: Indices) -> None:
        """Put what is in a slot into these blocks. From the return on nothing is written any more; TransportError."""
        ...

    async def mismatches(self, blocks: Indices, checksums: bytes, layers: range | None, heads: Heads | None) -> Indices:
        """As `Transport.mismatches`."""
        ...

    def close(self) -> None:
        """Release what it has of its own; no stage."""
        ...


class Stages:
    """Those of one end, `MAX_STAGES` at most: they are as long as the agent, since peers remember where they were."""

    def __init__(self, agent: Agent, memory: Memory) -> None:
        self._agent = agent
        self._memory = memory
        self._lock = threading.Lock()
        self._free: list[Stage] = []
        self._made = 0

    def take(self, slot_bytes: int) -> Stage:
        """A free one; TransportError if all are in use."""
        with self._lock:
            stage = next((free for free in self._free if free.slot_bytes == slot_bytes), None)
            if stage is not None:
                self._free.remove(stage)
                return stage
            if self._made >= MAX_STAGES:
                raise TransportError(f"all {MAX_STAGES} stages are in use")
            stage = self._memory.stage(self._agent, slot_bytes)
            self._made += 1
            return stage

    def give_back(self, stage: Stage) -> None:
        """Nothing is written there any more, but by this process."""
        with self._lock:
            self._free.append(stage)


def slot_bytes_for(least: int, block_bytes: int) -> int:
    """Whole pages, for one block at least."""
    return -(-max(least, block_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE


def slot_units(slot_bytes: int, unit_bytes: int) -> int:
    """Units of checksums that go into a slot; both ends count so."""
    return max(1, slot_bytes // unit_bytes)


def send_frame(sock: socket.socket, frame: msgspec.Struct, check: wire.Check) -> None:
    """One frame of the agreement."""
    data = msgspec.msgpack.encode(frame)
    wire.send_all(sock, _LENGTH.pack(len(data)) + data, check)


def receive_frame(sock: socket.socket, kind: type[F], check: wire.Check) -> F:
    """One frame of the agreement; TransportError."""
    (size,) = _LENGTH.unpack(wire.receive(sock, _LENGTH.size, check))
    if size > _MAX_FRAME_BYTES:
        raise TransportError(f"a frame of {size} B; the most is {_MAX_FRAME_BYTES}")
    try:
        return msgspec.msgpack.decode(wire.receive(sock, size, check), type=kind)
    except msgspec.MsgspecError as error:
        raise TransportError(f"this is no {kind.__name__}: {error}") from error
