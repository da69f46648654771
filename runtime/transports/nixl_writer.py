"""The sending end of nixl: blocks are gathered into slots, and each slot is written to the peer's in one run."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import PAUSE_S, Agent, Write, pause
from dynamoc.runtime.transports.nixl_end import End
from dynamoc.runtime.transports.nixl_given_up import Loose
from dynamoc.runtime.transports.nixl_staging import (
    SLOTS,
    Attach,
    Leased,
    NixlMetadata,
    Packer,
    Stage,
    receive_frame,
    send_frame,
    slot_units,
)
from dynamoc.runtime.transports.process import this_process
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.tcp_writer import Lane, TcpPeer

GRACE_S = 0.2
"""How long a write that was given up may take to end before the connection does."""
LINE_LIMIT_S = 10.0
MAX_SLOT_BYTES = 1 << 30


@dataclass(slots=True, eq=False)
class Link:
    """The slots of one connection: `stage` here, `there` at `owner`; `under_way` is the last write."""

    agent: Agent
    owner: str
    stage: Stage
    there: Leased
    under_way: Write | None = None

    def write(self, slot: int, size: int) -> None:
        """Begin to write the beginning of a slot onto the same at the peer; none may be under way."""
        to = self.there.place.after(slot * self.there.slot_bytes)
        self.under_way = self.agent.write(self.stage.slot(slot), size, self.owner, to)

    def wait(self, check: wire.Check) -> None:
        """Until what is under way has arrived; TransportError, or what `check` raises."""
        began = time.monotonic()
        while self.under_way is not None and not self.under_way.is_done():
            check()
            pause(began)
        self.under_way = None


class NixlPeer(TcpPeer):
    """A remote pool: its connections, and the slots of each."""

    def __init__(self, key: bytes, offered: NixlMetadata, end: End) -> None:
        super().__init__(key, offered)
        self._owner = offered.agent
        self._end = end
        self._links: dict[socket.socket, Link] = {}

    def link(self, connection: socket.socket) -> Link:
        """The slots of a connection."""
        return self._links[connection]

    def greeted(self, connection: socket.socket, check: wire.Check) -> None:
        """Get slots at the peer, and mine to go with them."""
        quiet = self._end.given_up.take_over(self._owner)
        send_frame(connection, Attach(this_process(), quiet), check)
        wire.accept_answer(connection, check)
        there = receive_frame(connection, Leased, check)
        if not 0 < there.slot_bytes <= MAX_SLOT_BYTES:
            raise TransportError(f"the peer's slots have {there.slot_bytes} B")
        self._end.agent.add(there.metadata)
        stage = self._end.sending.take(there.slot_bytes)
        self._links[connection] = link = Link(self._end.agent, self._owner, stage, there)
        # UCX connects when it is first used: now, so that a way that does not work is found before a prompt needs it.
        link.write(0, 1)
        _finish(connection, link, 0, check)
        wire.accept_answer(connection, check)
        if there.wants_line and not self._end.lines.has(self._owner):
            self._end.lines.keep(self._owner, self._line(check))

    def end(self, connection: socket.socket) -> None:
        """Close it. My slots are free: what reads them late writes to slots that the owner keeps apart."""
        link = self._links.pop(connection, None)
        if link is not None:
            loose = Loose(self._owner, link.there.lease, link.under_way)
            until = time.monotonic() + GRACE_S
            while not loose.is_over() and loose.failed_at is None and time.monotonic() < until:
                time.sleep(PAUSE_S)
            self._end.given_up.add(loose)
            self._end.sending.give_back(link.stage)
        connection.close()

    def _line(self, check: wire.Check) -> socket.socket:
        line = self.dial(LINE_LIMIT_S, check)
        try:
            send_frame(line, Attach(this_process(), is_line=True), check)
            wire.accept_answer(line, check)
        except BaseException:
            line.close()
            raise
        return line


@dataclass(frozen=True, slots=True)
class NixlLane(Lane):
    """Packs and writes slot after slot: one is filled while the one before is under way."""

    packer: Packer

    def _await_source(self) -> None:
        self.packer.memory.use()
        if (after := self.sending.after) is not None:
            self.packer.await_event(after, self._check)
            self.transfer.ready_at = max(self.transfer.ready_at, time.monotonic())

    def _send(self, connection: socket.socket, sources: Indices) -> None:
        assert isinstance(self.peer, NixlPeer)
        link = self.peer.link(connection)
        step = slot_units(link.stage.slot_bytes, self.sending.unit_rows * self.sending.portion.size)
        starts = range(0, len(self.units), step)
        for turn, start in enumerate(starts):
            if turn >= SLOTS:
                wire.accept_answer(connection, self._check)  # the peer has emptied this slot
            size = self._pack(link.stage, turn % SLOTS, sources, self.units[start : start + step], start)
            _finish(connection, link, turn - 1, self._check)
            self._check()
            link.write(turn % SLOTS, size)
        _finish(connection, link, len(starts) - 1, self._check)
        for _ in range(min(SLOTS, len(starts))):
            wire.accept_answer(connection, self._check)

    def _pack(self, stage: Stage, slot: int, sources: Indices, units: range, first: int) -> int:
        """Fill a slot with these units; how many bytes that are."""
        portion, step = self.sending.portion, self.sending.unit_rows
        blocks = sources[first * step : (first + len(units)) * step]
        sums = self.transfer.checksums[units.start : units.stop]
        self.packer.pack(stage, slot, portion, blocks, sums, self._check)
        return blocks.size * portion.size


def _finish(connection: socket.socket, link: Link, turn: int, check: wire.Check) -> None:
    """Wait for the write of a turn, and tell the peer."""
    if turn >= 0:
        link.wait(check)
        wire.send_all(connection, bytes([turn % SLOTS]), check)
