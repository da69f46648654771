"""The sending end of nixl: connections to a remote pool, and the slots that go with each."""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import PAUSE_S, Agent, Write, pause
from dynamoc.runtime.transports.nixl_end import End
from dynamoc.runtime.transports.nixl_given_up import Loose
from dynamoc.runtime.transports.nixl_staging import (
    Attach,
    Leased,
    NixlMetadata,
    Stage,
    receive_frame,
    send_frame,
)
from dynamoc.runtime.transports.process import this_process
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.tcp_writer import TcpPeer

GRACE_S = 0.2
"""How long a write that was given up may take to end before the connection does."""
LINE_LIMIT_S = 10.0
SLOW = 4e9
"""Bytes a second. Less is not RDMA, nor one GPU into another: blocks go by way of the hosts' memory, over TCP."""
MAX_SLOTS, MAX_SLOT_BYTES = 16, 1 << 30


log = logging.getLogger("dynamoc.transports.nixl")


@dataclass(slots=True, eq=False)
class Link:
    """The slots of one connection: `stage` here, `there` at `owner`; `writes` are under way, in order."""

    agent: Agent
    owner: str
    stage: Stage
    there: Leased
    writes: deque[Write] = field(default_factory=deque)

    def write(self, turn: int, size: int) -> None:
        """Begin to write the beginning of a turn's slot onto the same at the peer."""
        slots = self.there.slots
        to = self.there.place.after(turn % slots.count * slots.size)
        self.writes.append(self.agent.write(self.stage.slot(turn), size, self.owner, to))

    def has_arrived(self) -> bool:
        """Whether the first of them has, which then is forgotten; TransportError."""
        if self.writes and self.writes[0].is_done():
            self.writes.popleft()
            return True
        return False


class NixlPeer(TcpPeer):
    """A remote pool: its connections, and the slots of each."""

    def __init__(self, key: bytes, offered: NixlMetadata, end: End, streams: int) -> None:
        super().__init__(key, offered, streams)
        self._owner = offered.agent
        self._end = end
        self._links: dict[socket.socket, Link] = {}

    def link(self, connection: socket.socket) -> Link:
        """The slots of a connection."""
        return self._links[connection]

    def greeted(self, connection: socket.socket, check: wire.Check) -> None:
        """Get slots at the peer, and mine to go with them."""
        self._end.memory.use()
        over = self._end.given_up.over(self._owner)
        send_frame(connection, Attach(this_process(), tuple(loose.lease for loose in over)), check)
        wire.accept_answer(connection, check)
        self._end.given_up.forget(over)
        there = receive_frame(connection, Leased, check)
        if not (0 < there.slots.count <= MAX_SLOTS and 0 < there.slots.size <= MAX_SLOT_BYTES):
            raise TransportError(f"the peer has {there.slots.count} slots of {there.slots.size} B")
        self._end.agent.add(there.metadata)
        stage = self._end.sending.take(there.slots)
        self._links[connection] = link = Link(self._end.agent, self._owner, stage, there)
        # UCX connects when it is first used: now, so that a way that does not work is found before a prompt needs it.
        _try(link, 1, check)
        if stage.place.device is not None and (rate := stage.slots.size / _try(link, stage.slots.size, check)) < SLOW:
            log.warning("UCX writes memory of GPUs to agent %s at %.1f GB/s only", self._owner, rate / 1e9)
        wire.send_all(connection, bytes(1), check)
        wire.accept_answer(connection, check)
        if there.wants_line and not self._end.lines.has(self._owner):
            self._end.lines.keep(self._owner, self._line(check))

    def end(self, connection: socket.socket) -> None:
        """Close it. My slots are free: what reads them late writes to slots that the owner keeps apart."""
        link = self._links.pop(connection, None)
        if link is not None:
            loose = Loose(self._owner, link.there.lease, tuple(link.writes))
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


def _try(link: Link, size: int, check: wire.Check) -> float:
    """Seconds that a write into the first slot takes."""
    began = time.monotonic()
    link.write(0, size)
    while not link.has_arrived():
        check()
        pause(began)
    return time.monotonic() - began
