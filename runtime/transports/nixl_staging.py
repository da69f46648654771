"""Registered memory through which blocks pass: slots at both ends, each written in one run.

A peer never writes into the pool itself: a write that was given up may still arrive. It then hits slots that nobody
uses again until their writer said that nothing of it is under way; the pool's blocks are safe at once.
"""

from __future__ import annotations

import itertools
import mmap
import socket
import struct
import threading
from collections.abc import Iterable
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.transfer.checksums import unit_rows
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import Agent
from dynamoc.runtime.transports.protocol import TransportError

SLOT_BYTES = 8 << 20
"""Smaller runs do not fill a link; a block that is larger has a slot of its own size."""
SLOTS = 2
"""One is filled or emptied while the other is written."""
MAX_STAGES = 64
"""At either end; a connection uses one."""
_LENGTH = struct.Struct("<I")
_MAX_FRAME_BYTES = 1 << 16
F = TypeVar("F", bound=msgspec.Struct)


class Attach(msgspec.Struct, frozen=True, array_like=True):
    """The writer's first words on a connection. Nothing is under way any more to the stages leased under `quiet`."""

    quiet: tuple[int, ...]


class Leased(msgspec.Struct, frozen=True, array_like=True):
    """The owner's answer: where this connection's slots are."""

    lease: int
    agent: str
    metadata: bytes
    address: int
    slot_bytes: int


class Stage:
    """`SLOTS` slots one after another."""

    def __init__(self, agent: Agent, slot_bytes: int) -> None:
        """TransportError if it cannot be registered."""
        self.slot_bytes = slot_bytes
        self._memory = mmap.mmap(-1, SLOTS * slot_bytes)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8)
        self.address = int(self._bytes.ctypes.data)
        self.metadata = agent.register(self.address, SLOTS * slot_bytes)

    def rows(self, slot: int, count: int, row_bytes: int) -> NDArray[np.uint8]:
        """The beginning of a slot as so many rows."""
        start = slot * self.slot_bytes
        return self._bytes[start : start + count * row_bytes].reshape(count, row_bytes)


class Stages:
    """Those of one end. A stage is free, leased, or in quarantine: something may still be written there."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._lock = threading.Lock()
        self._free: list[Stage] = []
        self._leased: dict[int, Stage] = {}
        self._quiet: set[int] = set()
        """Leases that ended for their writer before they did here."""
        self._quarantine: dict[int, Stage] = {}
        self._leases = itertools.count(1)
        self._made = 0

    def lease(self, slot_bytes: int, quiet: Iterable[int] = ()) -> tuple[int, Stage]:
        """A stage, and the name of its use; TransportError if all are in use or in quarantine."""
        with self._lock:
            for lease in quiet:
                if (stage := self._quarantine.pop(lease, None)) is not None:
                    self._free.append(stage)
                elif lease in self._leased:
                    self._quiet.add(lease)
            stage = next((free for free in self._free if free.slot_bytes == slot_bytes), None)
            if stage is not None:
                self._free.remove(stage)
            elif self._made >= MAX_STAGES:
                raise TransportError(f"all {MAX_STAGES} stages are in use, {len(self._quarantine)} in quarantine")
            else:
                stage = Stage(self._agent, slot_bytes)
                self._made += 1
            lease = next(self._leases)
            self._leased[lease] = stage
            return lease, stage

    def give_back(self, lease: int, *, quiet: bool) -> None:
        """The use ended; not `quiet`: something may still be written there."""
        with self._lock:
            stage = self._leased.pop(lease)
            if quiet or lease in self._quiet:
                self._quiet.discard(lease)
                self._free.append(stage)
            else:
                self._quarantine[lease] = stage


class End:
    """What this process has of NIXL, for one transport after another: its agent, and stages that live as long."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.sending = Stages(agent)
        self.receiving = Stages(agent)


def slot_bytes_for(block_bytes: int) -> int:
    """Whole pages, for one block at least."""
    return -(-max(SLOT_BYTES, block_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE


def slot_units(slot_bytes: int, row_bytes: int) -> int:
    """Units of checksums that go into a slot; both ends count so."""
    return max(1, slot_bytes // (unit_rows(row_bytes) * row_bytes))


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
