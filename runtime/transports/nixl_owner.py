"""The receiving end of nixl: leases a stage to each connection, and puts into the blocks what arrived there."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import pause
from dynamoc.runtime.transports.nixl_end import End
from dynamoc.runtime.transports.nixl_packer import Packer
from dynamoc.runtime.transports.nixl_staging import (
    Attach,
    Leased,
    Stage,
    receive_frame,
    send_frame,
    slot_units,
    slots_for,
)
from dynamoc.runtime.transports.process import Process, is_in_sight
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.shards import Portion

_CLOSE_WAIT = 8
"""Of the kernel's states of a TCP connection."""


class Staged:
    """Slots are filled behind the connection; over it comes only that they are."""

    def __init__(self, end: End, packer: Packer, lease: int, stage: Stage) -> None:
        self._agent = end.agent
        self._leases = end.receiving
        self._packer = packer
        self._lease = lease
        self._stage = stage
        self._portion: Portion
        self._turn = 0

    def turns(self, portion: Portion, count: int) -> Iterator[slice]:
        """As many blocks as a slot holds."""
        self._portion, self._turn = portion, 0
        rows = self._packer.checksum.unit_rows(portion.size)
        step = slot_units(self._stage.slots, rows * portion.size) * rows
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def fill(self, connection: socket.socket, blocks: Indices, check: wire.Check) -> None:
        """Once the slot is said to be full, empty it; then say so."""
        self.await_slot(connection, self._turn, check)
        self._packer.unpack(self._stage, self._turn, self._portion, blocks)
        self._turn += 1
        wire.answer_ok(connection, check)

    def await_slot(self, connection: socket.socket, turn: int, check: wire.Check) -> None:
        """Until the writer says that the slot of a turn is full, doing meanwhile what its write needs of this end."""
        said = select.poll()
        said.register(connection, select.POLLIN)
        began = time.monotonic()
        while not said.poll(0):
            check()
            self._agent.progress()
            pause(began, self._packer.spin_s)
        if wire.receive(connection, 1, check)[0] != turn % self._stage.slots.count:
            raise TransportError("the writer filled another slot than its turn was")

    def close(self, *, quiet: bool) -> None:
        """Give the stage back; what ended within a transfer may still be written to."""
        self._leases.end(self._lease, quiet=quiet)


class StagingOwner:
    """Attaches connections of writers."""

    def __init__(self, end: End, packer: Packer, block_bytes: int) -> None:
        self._end = end
        self._packer = packer
        self._slots = slots_for(packer.slots, block_bytes)

    def attach(self, connection: socket.socket, check: wire.Check) -> Staged:
        """Lease a stage to a writer that proved the key; it is refused if there is none."""
        self._packer.memory.use()
        asked = receive_frame(connection, Attach, check)
        if asked.is_line:
            self._hold(connection, asked.writer, check)
        try:
            lease, stage = self._end.receiving.lease(self._slots, asked.writer, asked.quiet)
        except TransportError as error:
            wire.answer_refused(connection, str(error), check)
            raise
        staged = Staged(self._end, self._packer, lease, stage)
        try:
            wire.answer_ok(connection, check)
            wants_line = not is_in_sight(asked.writer)
            leased = Leased(lease, wants_line, stage.metadata, stage.place, stage.slots)
            send_frame(connection, leased, check)
            staged.await_slot(connection, 0, check)
            wire.answer_ok(connection, check)
        except BaseException:
            staged.close(quiet=False)
            raise
        return staged

    def _hold(self, connection: socket.socket, writer: Process, check: wire.Check) -> NoReturn:
        """Until the writer's process has ended, or this transport."""
        wire.answer_ok(connection, check)
        connection.settimeout(None)
        connection.recv(1)
        # The peer's kernel closed it, rather than this end: nothing else tells the two apart once it is shut down.
        if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT:
            self._end.receiving.line_ended(writer)
        raise TransportError(f"the line of process {writer.pid} ended")
