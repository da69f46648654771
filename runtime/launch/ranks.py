"""This node's ranks of an MPI world, which a step of the scheduler started: found, watched, asked to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from dynamoc.runtime.agent.family import carries
from dynamoc.runtime.agent.record import write_atomically
from dynamoc.runtime.process import Context

FOLDER = "ranks"
POLL_S = 0.2
LOST = 1


def announce(run_dir: Path, rank: int, name: str) -> None:
    """Write this process down as a rank of the process `name`; it stays the same when it becomes the engine."""
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{name}.{rank}", str(os.getpid()).encode())


class Ranks:
    """They are not our children: each is held by a descriptor, which tells of its end and reaches no stranger."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._missing = set(context.spec.ranks)
        self._held: dict[int, int] = {}
        self._ended = asyncio.Event()

    async def started(self) -> None:
        """Until every rank of this node was found alive."""
        while self._missing:
            for rank in sorted(self._missing):
                self._find(rank)
            if self._missing:
                said = f"waiting for ranks {', '.join(map(str, sorted(self._missing)))}"
                self._context.notifier.progress(0.0, said)
                await asyncio.sleep(POLL_S)

    async def wait(self) -> int:
        """Until one of them has ended: a world that lost a rank cannot go on. Its status is its step's to know."""
        await self._ended.wait()
        return LOST

    def terminate(self) -> None:
        """SIGTERM to those that were found."""
        if not self._held:
            self._ended.set()
        for descriptor in self._held.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)

    def _find(self, rank: int) -> None:
        spec, run_dir = self._context.spec, self._context.run_dir
        marks = {"DYNAMOC_RUN_DIR": str(run_dir), "DYNAMOC_PROCESS": spec.name, "DYNAMOC_RANK": str(rank)}
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((run_dir / FOLDER / f"{spec.name}.{rank}").read_text())
            descriptor = os.pidfd_open(pid)
            if not carries(pid, marks):  # of an earlier run of this folder; the number is a stranger's by now
                os.close(descriptor)
                return
            self._held[rank] = descriptor
            self._missing.discard(rank)
            asyncio.get_running_loop().add_reader(descriptor, self._gone, descriptor)

    def _gone(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        self._ended.set()
