"""Who may write to a campaign's folder: one launcher at a time, known by host and process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dynamoc.runtime.agent.record import write_atomically

LOCK = "owner.lock"
OWNER = "owner.json"


class OwnedError(Exception):
    """Another launcher writes to the folder; the message says which."""


class Owner(msgspec.Struct, frozen=True):
    """Who writes, or wrote last."""

    host: str
    pid: int
    since: float


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[Owner | None]:
    """Write to the folder while the block lasts; yields an owner before us that ended without a word. OwnedError.

    The lock ends with its process, however that ends; over NFS with the lease of its host.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OwnedError(f"{folder} is written by {_spelled(_read(folder))}") from None
        before = _read(folder)
        now = Owner(socket.gethostname(), os.getpid(), round(time.time(), 3))
        write_atomically(folder / OWNER, msgspec.json.encode(now))
        yield before
        (folder / OWNER).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def is_owned(folder: Path) -> bool:
    """Whether a launcher writes to the folder now."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _read(folder: Path) -> Owner | None:
    try:
        return msgspec.json.decode((folder / OWNER).read_bytes(), type=Owner)
    except FileNotFoundError:
        return None


def _spelled(owner: Owner | None) -> str:
    return "another launcher" if owner is None else f"process {owner.pid} on {owner.host}"
