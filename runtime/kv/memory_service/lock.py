"""Who may touch the memory: one writer, or readers of what was committed. A session that ends gives back what it held.

A writer that ends without a commit leaves nothing behind. Writers that wait go before readers that come later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum

LOOK_S = 0.05
"""How often one that waits makes sure that it is still wanted."""


class Mode(StrEnum):
    """What a session may do. `EITHER` asks to write if nothing is committed or being written, else to read."""

    WRITE = "write"
    READ = "read"
    EITHER = "either"


class LockError(RuntimeError):
    """The lock was not granted in time, or is not held; the message names who holds it."""


class Lock:
    """Used from many threads; a session is any text that names its holder."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._writer: str | None = None
        self._readers: set[str] = set()
        self._waiting: set[str] = set()
        self._committed = False

    def take(self, session: str, mode: Mode, limit_s: float, is_wanted: Callable[[], bool]) -> Mode:
        """WRITE or READ, once it is free; LockError past the limit, or if nobody wants it any more."""
        until = time.monotonic() + limit_s
        with self._changed:
            self._must_not_hold(session)
            if mode is Mode.WRITE:
                self._waiting.add(session)
            try:
                while (granted := self._grantable(session, mode)) is None:
                    if time.monotonic() >= until:
                        raise LockError(f"no {mode} lock within {limit_s:g} s: {self._holders()}")
                    if not is_wanted():
                        raise LockError("the session ended while it waited")
                    self._changed.wait(LOOK_S)
            finally:
                self._waiting.discard(session)
                self._changed.notify_all()
            if granted is Mode.WRITE:
                self._writer, self._committed = session, False
            else:
                self._readers.add(session)
            return granted

    def commit(self, session: str) -> None:
        """What the writer made may be read; it is a reader itself from now on. LockError if it is not the writer."""
        with self._changed:
            if self._writer != session:
                raise LockError(f"{session} cannot commit: {self._holders()}")
            self._writer, self._committed = None, True
            self._readers.add(session)
            self._changed.notify_all()

    def writes(self, session: str) -> bool:
        """Whether it has the lock to write."""
        with self._changed:
            return self._writer == session

    def give_back(self, session: str) -> None:
        """The session ended, however it did."""
        with self._changed:
            if self._writer == session:
                self._writer = None
            self._readers.discard(session)
            self._changed.notify_all()

    def _grantable(self, session: str, mode: Mode) -> Mode | None:
        if self._writer is not None:
            return None
        if mode is Mode.WRITE or (mode is Mode.EITHER and not self._committed):
            return Mode.WRITE if not self._readers and not (self._waiting - {session}) else None
        return Mode.READ if self._committed and not self._waiting else None

    def _must_not_hold(self, session: str) -> None:
        if session == self._writer or session in self._readers:
            raise LockError(f"{session} has a lock already")

    def _holders(self) -> str:
        if self._writer is not None:
            return f"{self._writer} writes"
        if self._readers:
            return f"{', '.join(sorted(self._readers))} read"
        return f"{', '.join(sorted(self._waiting))} wait to write" if self._waiting else "nothing is committed"
