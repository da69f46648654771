"""`receipts.jsonl`: what was about to be done with a run, and what came of it. Only ever appended to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

LOCK_DEADLINE_S = 90.0
POLL_S = 0.1


class ReceiptsError(Exception):
    """The receipts of a run cannot be read, or another submission is going on; the message is for the user."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. An `intent` without a `submitted` behind it may or may not have become a job.

    `without` is a wish that Slurm refused; what was submitted then does not have it.
    """

    what: Literal["intent", "submitted", "refused", "without", "cancel"]
    wall: float
    comment: str = ""
    job: str = ""
    reason: str = ""
    retries: int = 0
    """Of the first `intent`: how many jobs may follow one that was cut short."""
    after: str = ""
    """Of an `intent`: the job that this one goes on after."""
    excluded: tuple[str, ...] = ()
    """Of an `intent`: nodes that were lost before."""


class Receipts:
    """Those of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "receipts.jsonl"
        self._lock = folder / "receipts.lock"

    def read(self) -> tuple[Receipt, ...]:
        """All of them, oldest first; a line that was cut off by a crash is not one."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
            return tuple(msgspec.json.decode(line, type=Receipt) for line in lines if line.endswith(b"\n"))
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.MsgspecError) as error:
            raise ReceiptsError(f"{self.path}: {error}") from error

    def jobs(self) -> tuple[str, ...]:
        """Every job the run has had, in order."""
        return tuple(dict.fromkeys(receipt.job for receipt in self.read() if receipt.what == "submitted"))

    def retries(self) -> int:
        """How many jobs may follow the first."""
        return max((receipt.retries for receipt in self.read() if receipt.what == "intent"), default=0)

    def excluded(self) -> tuple[str, ...]:
        """Nodes that jobs of this run were lost on."""
        return tuple(dict.fromkeys(node for receipt in self.read() for node in receipt.excluded))

    def add(self, what: Literal["intent", "submitted", "refused", "without", "cancel"], **fields: Any) -> None:
        """On the disk when this returns."""
        line = msgspec.json.encode(Receipt(what=what, wall=round(time.time(), 3), **fields)) + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            written = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.ftruncate(descriptor, written.rfind(b"\n") + 1)  # what a crash cut off
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """One submission at a time. Whoever inherits the descriptor keeps the lock until it ends, too."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._wait(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _wait(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ReceiptsError(f"another submission of {self.path.parent} is going on") from None
                time.sleep(POLL_S)
            else:
                return
