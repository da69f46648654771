"""Which writer has which of the owner's stages, and when a stage to which something may be under way is safe again.

That is when its writer saw the write arrive and says so, or when the writer's process has ended and what it had handed
to its network has ended too. A writer that is stopped may go on one day: its stages wait as long as it does.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from dynamoc.runtime.transports.nixl_agent import Agent
from dynamoc.runtime.transports.nixl_staging import Slots, Stage, Stages
from dynamoc.runtime.transports.process import Process, has_ended, is_in_sight
from dynamoc.runtime.transports.protocol import TransportError

LATE_S = 120.0
"""How long bytes of a process that has ended may still come from another host.

Linux tries to deliver what a closed socket holds for some 100 s (`tcp_orphan_retries`); RDMA ends with its queue pair,
and a port repeats a packet 7 times, 1 s apart, at most (`UCX_RC_RETRY_COUNT`, `UCX_RC_TIMEOUT`).
"""
DRAINING_LOOKS = 4096
"""Each takes what a socket has, 8 KiB (`UCX_TCP_TX_SEG_SIZE`) or more: twice what the two kernels hold of it."""


@dataclass(slots=True)
class Lease:
    """The use of a stage by a writer. `is_over`: it may still write, but the connection has ended."""

    stage: Stage
    writer: Process
    is_over: bool = False
    is_quiet: bool = False


class Leases:
    """Of all stages of an owner's end."""

    def __init__(self, agent: Agent, stages: Stages) -> None:
        self._agent = agent
        self._stages = stages
        self._lock = threading.Lock()
        self._leases: dict[int, Lease] = {}
        self._numbers = itertools.count(1)
        self._ended: dict[Process, float] = {}
        """Writers on other hosts, and when their lines ended."""

    def lease(self, slots: Slots, writer: Process, quiet: Iterable[int] = ()) -> tuple[int, Stage]:
        """A stage, and the name of its use; TransportError if all are in use or wait for their writers."""
        with self._lock:
            for number in quiet:
                if (lease := self._leases.get(number)) is not None and lease.writer == writer:
                    lease.is_quiet = True
            self._reclaim()
            try:
                stage = self._stages.take(slots)
            except TransportError as error:
                waiting = sum(lease.is_over for lease in self._leases.values())
                raise TransportError(f"{error}, {waiting} of them wait for writes that were given up") from error
            number = next(self._numbers)
            self._leases[number] = Lease(stage, writer)
            return number, stage

    def end(self, number: int, *, quiet: bool) -> None:
        """The connection ended; not `quiet`: something may still be written there."""
        with self._lock:
            lease = self._leases[number]
            lease.is_over, lease.is_quiet = True, lease.is_quiet or quiet
            self._reclaim()

    def line_ended(self, writer: Process) -> None:
        """The process has ended, says its kernel."""
        with self._lock:
            self._ended[writer] = time.monotonic()

    def _reclaim(self) -> None:
        over = {number: lease for number, lease in self._leases.items() if lease.is_over}
        free = {number for number, lease in over.items() if lease.is_quiet}
        gone = {number for number, lease in over.items() if self._is_gone(lease.writer)} - free
        if gone:
            for _ in range(DRAINING_LOOKS):
                self._agent.progress()
        for number in free | gone:
            self._stages.give_back(self._leases.pop(number).stage)
        known = {lease.writer for lease in self._leases.values()}
        self._ended = {writer: at for writer, at in self._ended.items() if writer in known or not self._is_gone(writer)}

    def _is_gone(self, writer: Process) -> bool:
        """Whether nothing comes from it any more, but what is here already."""
        if is_in_sight(writer):
            return has_ended(writer.encode())
        return writer in self._ended and time.monotonic() > self._ended[writer] + LATE_S
