"""Pools that outlive the workers that compute in them: one of a name, in use by one session at a time.

A session that ends leaves its pool as it is; one of the same name finds it again. It is dropped only in favour of
another one of its name, and when the owner ends.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dynamoc.runtime.kv.memory_service.lock import LOOK_S, LockError
from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError
from dynamoc.runtime.kv.memory_service.messages import Keep, Was
from dynamoc.runtime.kv.pool import sealed_memfd


class Held(Protocol):
    """Memory that this process holds for others: they map it by descriptors, or by a device's handle."""

    fds: tuple[int, ...]
    handle: bytes

    def close(self) -> None:
        """Let go of it."""
        ...


class HeldHost:
    """Memory of this host, zeros where nobody wrote."""

    handle = b""

    def __init__(self, size: int) -> None:
        """MemoryServiceError."""
        try:
            self.fds: tuple[int, ...] = (sealed_memfd("dynamoc-kv", size),)
        except OSError as error:
            raise MemoryServiceError(f"cannot allocate {size} B: {error}") from error

    def close(self) -> None:
        """Let go of it; those that mapped it keep it."""
        for fd in self.fds:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Item:
    """A pool and its journal, which is host memory wherever the pool is."""

    identity: str
    pool: Held
    journal: Held

    def close(self) -> None:
        """Let go of both."""
        self.pool.close()
        self.journal.close()


class Shelf:
    """All kept pools of one owner. Used from many threads; a session is any text that names its holder."""

    def __init__(self, device: int | None) -> None:
        self._device = device
        self._items: dict[str, Item] = {}
        self._users: dict[str, str] = {}
        self._changed = threading.Condition()

    def take(
        self, session: str, asked: Keep, is_wanted: Callable[[], bool], make: Callable[[Callable[[], Item]], Item]
    ) -> tuple[Was, Item]:
        """The pool of that name, once nobody has it; `make` calls what allocates. LockError, MemoryServiceError."""
        until = time.monotonic() + asked.limit_s
        with self._changed:
            while (user := self._users.get(asked.name)) is not None:
                if time.monotonic() >= until:
                    raise LockError(f"the pool of {asked.name} is not free within {asked.limit_s:g} s: {user} has it")
                if not is_wanted():
                    raise LockError("the session ended while it waited")
                self._changed.wait(LOOK_S)
            self._users[asked.name] = session
        try:
            return self._find(asked, make)
        except BaseException:
            self.give_back(session)
            raise

    def give_back(self, session: str) -> None:
        """The session ended, however it did."""
        with self._changed:
            for name in [name for name, user in self._users.items() if user == session]:
                del self._users[name]
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of everything."""
        while self._items:
            self._items.popitem()[1].close()

    def _find(self, asked: Keep, make: Callable[[Callable[[], Item]], Item]) -> tuple[Was, Item]:
        """Whoever is here has the name to itself."""
        known = self._items.get(asked.name)
        if known is not None and known.identity == asked.identity and not asked.fresh:
            return "found", known
        if known is not None:
            del self._items[asked.name]
            known.close()
        self._items[asked.name] = item = make(lambda: self._allocate(asked))
        return "new" if known is None else "other", item

    def _allocate(self, asked: Keep) -> Item:
        pool = self._hold(asked.pool_bytes)
        try:
            return Item(asked.identity, pool, HeldHost(asked.journal_bytes))
        except BaseException:
            pool.close()
            raise

    def _hold(self, size: int) -> Held:
        if self._device is None:
            return HeldHost(size)
        made: Held = importlib.import_module("dynamoc.runtime.kv.memory_service.device").HeldDevice(size, self._device)
        return made
