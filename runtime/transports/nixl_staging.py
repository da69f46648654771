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
from msgspec.structs import replace

from dynamoc.runtime.kv.transfer.checksums import Checksum
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import Agent, Place
from dynamoc.runtime.transports.process import Process
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.tcp_writer import Metadata

MAX_STAGES = 64
"""At either end; a connection uses one."""
_LENGTH = struct.Struct("<I")
_MAX_FRAME_BYTES = 1 << 16
F = TypeVar("F", bound=msgspec.Struct)


class Slots(msgspec.Struct, frozen=True, array_like=True):
    """How many a stage has, and bytes of each."""

    count: int
    size: int


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
    slots: Slots


class Stage:
    """Slots one after another, from `place` on."""

    def __init__(self, agent: Agent, place: Place, slots: Slots) -> None:
        """TransportError if it cannot be registered."""
        self.place = place
        self.slots = slots
        self.metadata = agent.register(place, slots.count * slots.size)

    def slot(self, turn: int) -> Place:
        """Where that of a turn begins: they take turns."""
        return self.place.after(turn % self.slots.count * self.slots.size)


class Memory(Protocol):
    """Where stages are made."""

    @property
    def device(self) -> int | None:
        """The GPU whose memory it is, if it is one's."""
        ...

    def use(self) -> None:
        """Say that this thread works with it, before UCX is called from here; TransportError."""
        ...

    def stage(self, agent: Agent, slots: Slots) -> Stage:
        """A new one, registered; TransportError."""
        ...


class Stages:
    """Those of one end, `MAX_STAGES` at most: they are as long as the agent, since peers remember where they were."""

    def __init__(self, agent: Agent, memory: Memory) -> None:
        self._agent = agent
        self._memory = memory
        self._lock = threading.Lock()
        self._free: list[Stage] = []
        self._made = 0

    def take(self, slots: Slots) -> Stage:
        """A free one; TransportError if all are in use."""
        with self._lock:
            stage = next((free for free in self._free if free.slots == slots), None)
            if stage is not None:
                self._free.remove(stage)
                return stage
            if self._made >= MAX_STAGES:
                raise TransportError(f"all {MAX_STAGES} stages are in use")
            stage = self._memory.stage(self._agent, slots)
            self._made += 1
            return stage

    def give_back(self, stage: Stage) -> None:
        """Nothing is written there any more, but by this process."""
        with self._lock:
            self._free.append(stage)


def slots_for(least: Slots, block_bytes: int) -> Slots:
    """In whole pages, each for one block at least."""
    return replace(least, size=-(-max(least.size, block_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE)


def slot_units(slots: Slots, unit_bytes: int) -> int:
    """Units of checksums that go into a slot; both ends count so."""
    return max(1, slots.size // unit_bytes)


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
