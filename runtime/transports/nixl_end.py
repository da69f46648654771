"""What this process has of NIXL, for one transport after another: its agent, and stages that live as long."""

from __future__ import annotations

import os
import select
import socket
import threading

from dynamoc.runtime.transports.nixl_agent import Agent
from dynamoc.runtime.transports.nixl_given_up import GivenUp
from dynamoc.runtime.transports.nixl_leases import Leases
from dynamoc.runtime.transports.nixl_staging import Memory, Stages


class End:
    """One a process."""

    def __init__(self, agent: Agent, memory: Memory) -> None:
        self.agent = agent
        self.memory = memory
        self.sending = Stages(agent, memory)
        self.receiving = Leases(agent, Stages(agent, memory))
        self.given_up = GivenUp()
        self.lines = Lines()


class Lines:
    """Connections to owners on other hosts that this process's end closes, whatever ends it, and nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, int] = {}

    def has(self, owner: str) -> bool:
        """Whether there is one to the agent of that name, as far as this end knows."""
        with self._lock:
            return owner in self._lines and not _has_ended(self._lines[owner])

    def keep(self, owner: str, connection: socket.socket) -> None:
        """From now on it is nobody's but the kernel's. Those to owners that have ended are closed."""
        with self._lock:
            for known, line in list(self._lines.items()):
                if known == owner or _has_ended(line):
                    os.close(self._lines.pop(known))
            self._lines[owner] = connection.detach()


def _has_ended(line: int) -> bool:
    look = select.poll()
    look.register(line, select.POLLRDHUP)
    return bool(look.poll(0))
