"""The owner: keeps allocations alive across the ends of those who use them, and says who may use them when.

One thread a session. A session is its connection: when that ends, however it does, the lock is free again and what it
wrote without a commit is gone. What was committed stays until a writer begins anew or the owner ends. What a session
keeps stays as it left it, for the next one of its name.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from dynamoc.runtime.kv.memory_service import wire
from dynamoc.runtime.kv.memory_service.layout import Layout, LayoutError
from dynamoc.runtime.kv.memory_service.lock import Lock, LockError, Mode
from dynamoc.runtime.kv.memory_service.memory import Memory, MemoryServiceError, OutOfMemoryError
from dynamoc.runtime.kv.memory_service.messages import (
    Allocate,
    Allocated,
    Commit,
    Descriptors,
    Keep,
    Kept,
    Open,
    Reading,
    Refused,
    Writing,
)
from dynamoc.runtime.kv.memory_service.shelf import Shelf

MAX_SESSIONS = 64
MAX_ALLOCATIONS = 4096
ROOM_LIMIT_S = 10.0
"""How long a full device may take to get back what an ended process had."""
ROOM_LOOK_S = 0.5
_CREDENTIALS = struct.Struct("3i")

log = logging.getLogger("dynamoc.memory_service")
T = TypeVar("T")


class Owner:
    """Serves one socket, which nobody but this user may open, until `close`."""

    def __init__(self, path: Path, key: bytes, memory: Memory, shelf: Shelf) -> None:
        """OSError if the socket cannot be bound."""
        self._key = key
        self._memory = memory
        self._shelf = shelf
        self._lock = Lock()
        self._allocations: list[tuple[int, int]] = []
        """Descriptor and size; for the session with the write lock, or frozen. Guarded by the lock."""
        self._layout: Layout | None = None
        self._sessions: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        self._numbers = itertools.count(1)
        self._closing = False
        self._path = path
        self._listener = _listen(path)

    def serve(self) -> None:
        """Take sessions until `close`."""
        while (connection := self._accept()) is not None:
            with self._guard:
                if len(self._sessions) >= MAX_SESSIONS:
                    log.warning("refused a session: %d are open", MAX_SESSIONS)
                    connection.close()
                    continue
                thread = threading.Thread(target=self._run, args=(connection,), name="session", daemon=True)
                self._sessions[connection] = thread
            thread.start()

    def close(self) -> None:
        """End all sessions and let go of the memory; those that mapped it keep it."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        with self._guard:
            running = dict(self._sessions)
        for connection, thread in running.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(wire.FRAME_LIMIT_S)
        self._drop()
        self._shelf.close()

    def _accept(self) -> socket.socket | None:
        """The next connection; None when closing."""
        with contextlib.suppress(OSError):
            return self._listener.accept()[0]
        if not self._closing:
            raise OSError(f"{self._path} takes no sessions any more")
        return None

    def _run(self, connection: socket.socket) -> None:
        pid, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        session = f"session {next(self._numbers)} of process {pid}"
        try:
            wire.greet_as_owner(connection, self._key)
            self._serve(session, connection)
        except (LockError, LayoutError, MemoryServiceError) as error:
            log.warning("%s: %s", session, error)
            with contextlib.suppress(wire.WireError):
                wire.send(connection, Refused(str(error)))
        except wire.WireError as error:
            log.info("%s ended: %s", session, error)
        finally:
            self._end(session, connection)

    def _serve(self, session: str, connection: socket.socket) -> None:
        opening, fds = wire.receive(connection)
        _close(fds)
        if isinstance(opening, Keep):
            self._keep(session, connection, opening)
        if not isinstance(opening, Open):
            raise wire.WireError("a session begins with Open or Keep")
        mode = self._lock.take(session, opening.mode, opening.limit_s, lambda: _is_open(connection))
        log.info("%s has the %s lock", session, mode)
        if mode is Mode.WRITE:
            self._drop()
            wire.send(connection, Writing())
            self._write(session, connection)
        self._share(connection)
        wire.receive(connection, None)  # a reader says nothing more: this can only be its end
        raise wire.WireError("a reader has nothing to say")

    def _keep(self, session: str, connection: socket.socket, asked: Keep) -> NoReturn:
        """Lend a pool until the session ends: all threads of the process that had it are past writing then."""
        was, item = self._shelf.take(
            session, asked, lambda: _is_open(connection), lambda make: self._with_room(make, connection)
        )
        log.info("%s keeps the pool of %s: %s", session, asked.name, was)
        wire.send(connection, Kept(was, item.pool.handle), [*item.pool.fds, *item.journal.fds])
        wire.receive(connection, None)
        raise wire.WireError("who keeps has nothing more to say")

    def _write(self, session: str, connection: socket.socket) -> None:
        """Allocate until the commit."""
        while True:
            frame, fds = wire.receive(connection, None)
            _close(fds)
            if isinstance(frame, Commit):
                self._commit(session, frame.layout)
                return
            if not isinstance(frame, Allocate) or len(self._allocations) >= MAX_ALLOCATIONS or frame.size < 1:
                raise MemoryServiceError(f"not while writing, with {len(self._allocations)} allocations: {frame}")
            grain = self._memory.granularity
            size = -(-frame.size // grain) * grain
            fd = self._with_room(functools.partial(self._memory.create, size), connection)
            self._allocations.append((fd, size))
            wire.send(connection, Allocated(len(self._allocations) - 1, size), [fd])

    def _commit(self, session: str, layout: Layout) -> None:
        if layout.sizes != tuple(size for _, size in self._allocations):
            raise LayoutError(f"a layout over {len(layout.sizes)} allocations; these {len(self._allocations)} are here")
        layout.check()
        for index, (fd, size) in enumerate(self._allocations):
            self._allocations[index] = (self._memory.freeze(fd), size)
            os.close(fd)
        self._layout = layout
        self._lock.commit(session)
        log.info("%s committed %d tensors, %d B", session, len(layout.tensors), sum(layout.sizes))

    def _share(self, connection: socket.socket) -> None:
        assert self._layout is not None  # whoever reads holds the lock on it
        wire.send(connection, Reading(self._layout, self._layout.digest()))
        fds = [fd for fd, _ in self._allocations]
        for start in range(0, len(fds), wire.FDS):
            part = fds[start : start + wire.FDS]
            wire.send(connection, Descriptors(len(part)), part)

    def _with_room(self, make: Callable[[], T], connection: socket.socket) -> T:
        """What allocates is called again while there may soon be room for it."""
        until = time.monotonic() + ROOM_LIMIT_S
        while True:
            try:
                return make()
            except OutOfMemoryError as error:
                if time.monotonic() > until or not _is_open(connection):
                    raise
                log.warning("no room yet: %s", error)
                time.sleep(ROOM_LOOK_S)

    def _end(self, session: str, connection: socket.socket) -> None:
        if self._lock.writes(session):
            log.warning("%s ended without a commit: what it wrote is gone", session)
            self._drop()
        self._lock.give_back(session)
        self._shelf.give_back(session)
        with self._guard:
            self._sessions.pop(connection, None)
        connection.close()

    def _drop(self) -> None:
        """Let go of all memory."""
        _close([fd for fd, _ in self._allocations])
        self._allocations.clear()
        self._layout = None


def _listen(path: Path) -> socket.socket:
    """A socket that only this user can open; in place of one that nobody serves any more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(beside))
        finally:
            os.umask(before)
        listener.listen(MAX_SESSIONS)
        beside.replace(path)
    except OSError:
        listener.close()
        raise
    return listener


def _is_open(connection: socket.socket) -> bool:
    """Whether the other end is still there."""
    try:
        connection.settimeout(0)
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
