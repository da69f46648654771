"""The threads of one tier, and a bounded line of copies for them: loads first, and stores rather dropped than late."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Job = Callable[[], None]
Rank = tuple[int, int]


class Lane:
    """Runs jobs on `threads` threads. At most `capacity` stores wait; loads are bounded by whoever asks for them."""

    def __init__(self, name: str, threads: int, capacity: int) -> None:
        self.threads = threads
        self.after_job: Callable[[], None] | None = None
        """Called whenever a copy has completed."""
        self._capacity = capacity
        self._changed = threading.Condition()
        self._loads: list[tuple[Rank, int, Job]] = []
        self._count = itertools.count()
        self._stores: deque[Job] = deque()
        self._running = 0
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"kv-{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def in_flight(self) -> int:
        """Jobs waiting or running."""
        with self._changed:
            return len(self._loads) + len(self._stores) + self._running

    def load(self, job: Job, rank: Rank = (0, 0)) -> bool:
        """Run it before any store, lowest rank first; False once the lane closes."""
        with self._changed:
            if self._closing:
                return False
            heapq.heappush(self._loads, (rank, next(self._count), job))
            self._changed.notify()
            return True

    def store(self, job: Job) -> bool:
        """Run it when nothing is to be loaded; False if too much waits already, or the lane closes."""
        with self._changed:
            if self._closing or len(self._stores) >= self._capacity:
                return False
            self._stores.append(job)
            self._changed.notify()
            return True

    def close(self, timeout_s: float) -> bool:
        """Finish what is running and waits, within the time; whether it did."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_s / len(self._threads))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                # Jobs settle their own outcome; what reaches this place is a bug, and must not end the lane.
                log.exception("a copy failed in an unforeseen way")
            with self._changed:
                self._running -= 1
            if self.after_job is not None:
                self.after_job()

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._loads or self._stores or self._closing)
            if not self._loads and not self._stores:
                return None
            self._running += 1
            return heapq.heappop(self._loads)[-1] if self._loads else self._stores.popleft()
