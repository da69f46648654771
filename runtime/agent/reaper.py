"""Collects every child that ends: those the agent started, and orphans it inherits."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by itself with a status, or by a signal."""

    status: int | None = None
    signal: str | None = None

    def __str__(self) -> str:
        return f"exited with status {self.status}" if self.signal is None else f"killed by {self.signal}"


class Reaper:
    """The only caller of wait in the agent. Orphans of dead children come to us and must not stay zombies."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._loop = loop
        self._watched: dict[int, asyncio.Future[Exit]] = {}
        loop.add_signal_handler(signal.SIGCHLD, self._collect)

    def watch(self, pid: int) -> asyncio.Future[Exit]:
        """Done when that child ended; call it in the same step of the loop that started the child."""
        self._watched[pid] = self._loop.create_future()
        return self._watched[pid]

    def _collect(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if ended is None:
                return
            future = self._watched.pop(ended.si_pid, None)
            if future is not None and not future.done():
                by_itself = ended.si_code == os.CLD_EXITED
                name = None if by_itself else signal.Signals(ended.si_status).name
                future.set_result(Exit(ended.si_status if by_itself else None, name))
