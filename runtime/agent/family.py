"""Finds and ends what a process left behind: whoever inherited its marks, or is in its session."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

PROC = Path("/proc")
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def _is_kin(pid: int, marks: frozenset[bytes], session: int | None) -> bool:
    """Marks survive `setsid`, the session survives a cleaned environment. Zombies have neither."""
    try:
        if marks <= set((PROC / str(pid) / "environ").read_bytes().split(b"\0")):
            return True
        state, _, _, sid = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:4]
    except GONE:
        return False
    return session is not None and int(sid) == session and state != "Z"


def carries(pid: int, marks: Mapping[str, str]) -> bool:
    """Whether a living process of this user has all `marks` in its environment."""
    return _is_kin(pid, frozenset(f"{name}={value}".encode() for name, value in marks.items()), None)


def family(marks: Mapping[str, str], session: int | None = None) -> Iterator[int]:
    """Living processes of this user that carry all `marks` in their environment, or are in `session`."""
    wanted = frozenset(f"{name}={value}".encode() for name, value in marks.items())
    for entry in os.scandir(PROC):
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _is_kin(int(entry.name), wanted, session):
            yield int(entry.name)


def kill_family(marks: Mapping[str, str], session: int | None = None) -> int:
    """SIGKILL to all of them once; how many there were. Call until it says 0: they may have been forking."""
    found = 0
    wanted = frozenset(f"{name}={value}".encode() for name, value in marks.items())
    for pid in family(marks, session):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                # The number may have been given to a stranger since: ask again, now that it is held.
                if _is_kin(pid, wanted, session):
                    found += 1
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)
    return found
