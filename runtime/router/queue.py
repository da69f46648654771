"""Requests that wait for a worker: bounded, first come first served, each with a deadline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dynamoc.runtime.kv.hashing import TOKEN_BYTES, local_hashes
from dynamoc.runtime.plane.connection import Connection


@dataclass(slots=True, eq=False)
class Ask:
    """A request that wants a worker; `owner` is its frontend. `avoid`: each `worker@incarnation` that failed it."""

    owner: Connection
    request_id: int
    tokens: bytes
    max_tokens: int
    avoid: frozenset[str] = frozenset()
    deadline: float = 0.0
    _hashes: dict[int, list[int]] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def avoided_names(self) -> frozenset[str]:
        """The workers to avoid, whichever life they are in."""
        return frozenset(worker.rpartition("@")[0] for worker in self.avoid)

    def hashes(self, block_size: int) -> list[int]:
        """Local hashes of the prompt's full blocks, computed once."""
        if block_size not in self._hashes:
            self._hashes[block_size] = local_hashes(self.tokens, block_size)
        return self._hashes[block_size]


class WaitingQueue:
    """The requests in order of arrival. All wait equally long, so the first is also the first to expire."""

    def __init__(self, capacity: int, timeout_s: float) -> None:
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._asks: dict[tuple[Connection, int], Ask] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def __iter__(self) -> Iterator[Ask]:
        return iter(tuple(self._asks.values()))

    def push(self, ask: Ask, now: float) -> bool:
        """Append a request and set its deadline; False if the queue is full."""
        if len(self._asks) >= self._capacity:
            return False
        ask.deadline = now + self._timeout_s
        self._asks[ask.owner, ask.request_id] = ask
        return True

    def remove(self, owner: Connection, request_id: int) -> Ask | None:
        """Take out one request, if it waits."""
        return self._asks.pop((owner, request_id), None)

    def remove_owner(self, owner: Connection) -> list[Ask]:
        """Take out everything one asker waits for."""
        gone = [ask for ask in self if ask.owner is owner]
        for ask in gone:
            del self._asks[ask.owner, ask.request_id]
        return gone

    def expire(self, now: float) -> list[Ask]:
        """Take out what is past its deadline."""
        late = []
        for ask in self:
            if ask.deadline > now:
                break
            late.append(ask)
            del self._asks[ask.owner, ask.request_id]
        return late

    def next_deadline(self) -> float | None:
        """When the next request expires."""
        return next((ask.deadline for ask in self._asks.values()), None)
