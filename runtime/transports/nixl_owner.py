"""The receiving end of nixl: leases a stage to each connection, and puts into the blocks what arrived there."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from dynamoc.runtime.kv.transfer.checksums import unit_rows
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.rows import Rows, put
from dynamoc.runtime.transports import tcp_wire as wire
from dynamoc.runtime.transports.nixl_agent import Agent
from dynamoc.runtime.transports.nixl_staging import (
    SLOTS,
    Attach,
    Leased,
    Stage,
    Stages,
    receive_frame,
    send_frame,
    slot_bytes_for,
    slot_units,
)
from dynamoc.runtime.transports.protocol import TransportError


class Staged:
    """Slots are filled behind the connection; over it comes only that they are."""

    def __init__(self, stages: Stages, lease: int, stage: Stage) -> None:
        self._stages = stages
        self._lease = lease
        self._stage = stage
        self._turn = 0

    def cut(self, count: int, row_bytes: int) -> Iterator[slice]:
        """As many blocks as a slot holds."""
        self._turn = 0
        step = slot_units(self._stage.slot_bytes, row_bytes) * unit_rows(row_bytes)
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def fill(self, connection: socket.socket, rows: Rows, blocks: Indices, check: wire.Check) -> None:
        """Once the slot is said to be full, empty it; then say so."""
        slot = self._turn % SLOTS
        if wire.receive(connection, 1, check)[0] != slot:
            raise TransportError("the writer filled another slot than its turn was")
        put(rows, blocks, self._stage.rows(slot, blocks.size, rows))
        self._turn += 1
        wire.answer_ok(connection, check)

    def close(self, *, quiet: bool) -> None:
        """Give the stage back; what ended within a transfer may still be written to."""
        self._stages.give_back(self._lease, quiet=quiet)


class StagingOwner:
    """Attaches connections of writers."""

    def __init__(self, agent: Agent, block_bytes: int) -> None:
        self._agent = agent
        self._stages = Stages(agent)
        self._slot_bytes = slot_bytes_for(block_bytes)

    def attach(self, connection: socket.socket, check: wire.Check) -> Staged:
        """Lease a stage to a writer that proved the key; it is refused if there is none."""
        asked = receive_frame(connection, Attach, check)
        try:
            lease, stage = self._stages.lease(self._slot_bytes, asked.quiet)
        except TransportError as error:
            wire.answer_refused(connection, str(error), check)
            raise
        try:
            wire.answer_ok(connection, check)
            leased = Leased(lease, self._agent.name, stage.metadata, stage.address, stage.slot_bytes)
            send_frame(connection, leased, check)
        except BaseException:
            self._stages.give_back(lease, quiet=True)
            raise
        return Staged(self._stages, lease, stage)
