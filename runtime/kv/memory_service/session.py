"""A session with an owner: write what others will read, map what was committed, or keep a pool."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

from dynamoc.runtime.kv.memory_service import wire
from dynamoc.runtime.kv.memory_service.layout import ALIGNMENT, Layout, LayoutError, TensorPlace
from dynamoc.runtime.kv.memory_service.lock import Mode
from dynamoc.runtime.kv.memory_service.memory import Mapped, Memory, MemoryServiceError
from dynamoc.runtime.kv.memory_service.messages import (
    Allocate,
    Allocated,
    Commit,
    Descriptors,
    Frame,
    Keep,
    Kept,
    Open,
    Reading,
    Refused,
    Writing,
)

CHUNK_BYTES = 128 << 20
"""Tensors share allocations of so many bytes; a larger one has its own."""
ALLOCATE_LIMIT_S = 30.0


class Session:
    """One connection to the owner; the lock ends with it. Used from one thread at a time."""

    def __init__(self, path: Path, key: bytes, memory: Memory) -> None:
        """WireError if no owner with this key is there."""
        self.layout: Layout | None = None
        """What is committed; None while this session writes."""
        self.mapped: list[Mapped] = []
        """The allocations in this process."""
        self._memory = memory
        self._used = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(wire.FRAME_LIMIT_S)
            self._socket.connect(str(path))
            wire.greet_as_session(self._socket, key)
        except OSError as error:
            self._socket.close()
            raise wire.WireError(f"no owner answers at {path.name}: {error}") from error
        except wire.WireError:
            self._socket.close()
            raise

    def open(self, mode: Mode, limit_s: float) -> Mode:
        """Get a lock within the limit; a reader has everything mapped then. MemoryServiceError, WireError."""
        self._send(Open(mode, limit_s))
        answer, _ = self._answer(limit_s + wire.FRAME_LIMIT_S)
        if isinstance(answer, Writing):
            return Mode.WRITE
        self._map(answer)
        return Mode.READ

    def place(self, name: str, shape: tuple[int, ...], dtype: str, item_bytes: int) -> TensorPlace:
        """Room for a tensor, in an allocation that is mapped to be written."""
        wanted = TensorPlace(name, len(self.mapped) - 1, self._used, shape, dtype, item_bytes)
        if not self.mapped or wanted.fault(tuple(mapped.size for mapped in self.mapped)):
            self._allocate(max(CHUNK_BYTES, wanted.size))
            wanted = TensorPlace(name, len(self.mapped) - 1, 0, shape, dtype, item_bytes)
            self._used = 0
        self._used += -(-wanted.size // ALIGNMENT) * ALIGNMENT
        return wanted

    def commit(self, identity: str, tensors: tuple[TensorPlace, ...]) -> None:
        """Let others read, and read from now on; the writable mappings are gone, so no tensor over them may be left."""
        layout = Layout(identity, tuple(mapped.size for mapped in self.mapped), tensors)
        layout.check()
        while self.mapped:
            self.mapped[-1].close()
            self.mapped.pop()
        self._send(Commit(layout))
        answer, _ = self._answer(ALLOCATE_LIMIT_S)
        self._map(answer)

    def keep(self, asked: Keep) -> tuple[Kept, list[int]]:
        """The pool of that name, mine until the session ends; the descriptors are the caller's to close.

        MemoryServiceError, WireError.
        """
        self._send(asked)
        answer, fds = self._answer(asked.limit_s + ALLOCATE_LIMIT_S)
        if not isinstance(answer, Kept) or len(fds) != (1 if answer.handle else 2):
            _close(fds)
            raise MemoryServiceError(f"the owner answers {type(answer).__name__} with {len(fds)} descriptors to Keep")
        return answer, fds

    def is_open(self) -> bool:
        """Whether the owner is still there; of a session that reads or keeps, to which it says nothing."""
        said = select.poll()
        said.register(self._socket, select.POLLIN)
        return not said.poll(0)

    def close(self) -> None:
        """Give the lock back. What is mapped stays as long as something looks into it."""
        self.mapped.clear()
        self._socket.close()

    def _allocate(self, size: int) -> None:
        self._send(Allocate(size))
        answer, fds = self._answer(ALLOCATE_LIMIT_S)
        if not isinstance(answer, Allocated) or len(fds) != 1:
            _close(fds)
            raise MemoryServiceError(f"the owner answers {type(answer).__name__} to Allocate")
        self._map_all(fds, [answer.size], writable=True)

    def _map(self, answer: Frame) -> None:
        """What is committed; MemoryServiceError if what is sent is not what is named."""
        if not isinstance(answer, Reading):
            raise MemoryServiceError(f"the owner answers {type(answer).__name__} to a reader")
        layout = answer.layout
        try:
            layout.check()
        except LayoutError as error:
            raise MemoryServiceError(str(error)) from error
        if layout.digest() != answer.digest:
            raise MemoryServiceError("the owner's layout is not the one its digest names")
        while len(self.mapped) < len(layout.sizes):
            part, fds = self._answer(wire.FRAME_LIMIT_S)
            first = len(self.mapped)
            if not isinstance(part, Descriptors) or not 0 < len(fds) == part.count <= len(layout.sizes) - first:
                _close(fds)
                raise MemoryServiceError(f"{len(fds)} descriptors with {part}")
            self._map_all(fds, list(layout.sizes[first : first + len(fds)]), writable=False)
        self.layout = layout

    def _map_all(self, fds: list[int], sizes: list[int], *, writable: bool) -> None:
        try:
            for fd, size in zip(fds, sizes, strict=True):
                self.mapped.append(self._memory.map(fd, size, writable=writable))
        finally:
            _close(fds)

    def _send(self, frame: Frame) -> None:
        wire.send(self._socket, frame)

    def _answer(self, limit_s: float) -> tuple[Frame, list[int]]:
        frame, fds = wire.receive(self._socket, limit_s)
        if isinstance(frame, Refused):
            raise MemoryServiceError(f"the owner refused: {frame.reason}")
        return frame, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
