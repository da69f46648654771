"""One life of one process: what lets a peer on the same host see that it has ended."""

from __future__ import annotations

import functools
import os
import select
import weakref
from pathlib import Path

import msgspec

from dynamoc.runtime.transports.protocol import Outcome, TransportError
from dynamoc.runtime.transports.transfer import Stopped


class Process(msgspec.Struct, frozen=True, array_like=True):
    """One life of one process on one boot of one host."""

    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int

    def encode(self) -> bytes:
        """For a peer."""
        return msgspec.msgpack.encode(self)


@functools.cache
def this_process() -> Process:
    """Who I am."""
    pid = os.getpid()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Process(boot_id, str(Path("/proc/self/ns/pid").readlink()), pid, int(_stat(pid)[19]))


def check_same_host(process: Process, transport: str) -> None:
    """TransportError unless that process shares my host and my view of its processes."""
    if process.boot_id != this_process().boot_id:
        raise TransportError(f"{transport} needs both workers on one host, and the peer's is another one")
    if process.pid_namespace != this_process().pid_namespace:
        raise TransportError(f"{transport} needs both workers in one pid namespace, and the peer's is another one")


def has_ended(encoded: bytes) -> bool:
    """Whether the process that encoded itself so has ended, with all its threads; False if that cannot be seen."""
    process = msgspec.msgpack.decode(encoded, type=Process)
    if not is_in_sight(process):
        return False
    try:
        state, *_ = fields = _stat(process.pid)
    except OSError:
        return True
    threads_left = int(fields[17])
    return int(fields[19]) != process.start_ticks or (state in "ZX" and threads_left <= 1)


def is_in_sight(process: Process) -> bool:
    """Whether it can be seen from here that it ends: it runs on this host, in this pid namespace."""
    here = this_process()
    return (process.boot_id, process.pid_namespace) == (here.boot_id, here.pid_namespace)


class Watched:
    """A running process, and whether this end still wants anything of it."""

    def __init__(self, process: Process) -> None:
        self.closed = False
        self._pidfd = os.pidfd_open(process.pid)
        weakref.finalize(self, os.close, self._pidfd)

    def check(self) -> None:
        """Stopped if the peer was closed here or its process has ended."""
        if self.closed:
            raise Stopped(Outcome.FAILURE, "the peer was closed")
        ended = select.poll()  # one a call: lanes ask at the same time, and a poll object may not be shared
        ended.register(self._pidfd, select.POLLIN)
        if ended.poll(0):
            raise Stopped(Outcome.FAILURE, "the peer's process has ended")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on; OSError if there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
