"""One lane of a write: slots are packed, written and told of one after another, several at the same time."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import pause
from dynamoc.runtime.transports.nixl_packer import Packer, Packing
from dynamoc.runtime.transports.nixl_staging import slot_units
from dynamoc.runtime.transports.nixl_writer import Link, NixlPeer
from dynamoc.runtime.transports.tcp_writer import Lane


@dataclass(frozen=True, slots=True)
class NixlLane(Lane):
    """By way of the slots that its connection has."""

    packer: Packer

    def _await_source(self) -> None:
        self.packer.memory.use()
        if (after := self.sending.after) is not None:
            self.packer.await_event(after, self._check)
            self.transfer.ready_at = max(self.transfer.ready_at, time.monotonic())

    def _send(self, connection: socket.socket, sources: Indices) -> None:
        assert isinstance(self.peer, NixlPeer)
        link = self.peer.link(connection)
        step = slot_units(link.stage.slots, self.sending.unit_rows * self.sending.portion.size)
        starts = range(0, len(self.units), step)
        flow = Flow(self, connection, link, sources, [self.units[start : start + step] for start in starts])
        flow.run(self._check)


@dataclass(slots=True, eq=False)
class Flow:
    """What of a lane is where. One thread looks after all of it, so that nothing waits for another to wake."""

    lane: NixlLane
    connection: socket.socket
    link: Link
    sources: Indices
    turns: list[range]
    """The units of each slot."""
    _packing: deque[tuple[Packing, int]] = field(default_factory=deque)
    """With bytes."""
    _packed: int = 0
    """Turns whose packing began."""
    _written: int = 0
    """Turns whose write began."""
    _told: int = 0
    _answers: int = 0
    """First to the header, then one for each slot that was emptied."""
    _heard: select.poll = field(default_factory=select.poll)

    def run(self, check: wire.Check) -> None:
        """Until the owner has emptied the last slot; TransportError, OSError, or what `check` raises."""
        self._heard.register(self.connection, select.POLLIN)
        moved_at = time.monotonic()
        try:
            while self._answers <= len(self.turns):
                check()
                # Whether or not one of them moved, the next may.
                if any([self._pack(check), self._write(), self._tell(check), self._hear(check)]):
                    moved_at = time.monotonic()
                else:
                    pause(moved_at, self.lane.packer.spin_s)
        finally:
            for packing, _ in self._packing:
                packing.settle()

    def _pack(self, check: wire.Check) -> bool:
        """Into a slot that is empty, at both ends."""
        emptied = max(0, self._answers - 1)
        if self._packed >= min(len(self.turns), emptied + self.link.stage.slots.count):
            return False
        units, sending = self.turns[self._packed], self.lane.sending
        first, step = self.turns[0].start, sending.unit_rows
        blocks = self.sources[(units.start - first) * step : (units.stop - first) * step]
        sums = sending.transfer.checksums[units.start : units.stop]
        packing = self.lane.packer.pack(self.link.stage, self._packed, sending.portion, blocks, sums, check)
        self._packing.append((packing, blocks.size * sending.portion.size))
        self._packed += 1
        return True

    def _write(self) -> bool:
        """What is packed, once the owner expects it."""
        if not self._answers or not self._packing or not self._packing[0][0].is_done():
            return False
        _, size = self._packing.popleft()
        self.link.write(self._written, size)
        self._written += 1
        return True

    def _tell(self, check: wire.Check) -> bool:
        """The owner, of what has arrived."""
        if not self.link.has_arrived():
            return False
        wire.send_all(self.connection, bytes([self._told % self.link.stage.slots.count]), check)
        self._told += 1
        return True

    def _hear(self, check: wire.Check) -> bool:
        """An answer."""
        if not self._heard.poll(0):
            return False
        wire.accept_answer(self.connection, check)
        self._answers += 1
        return True
