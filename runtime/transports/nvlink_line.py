"""One thread that carries out work on a device, and starts the next piece before the last one has ended."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from dynamoc.runtime.kv.cuda.device import PAUSE_S, SPIN_S

AHEAD = 1
"""Batches started while another runs, so that the device never waits for this thread."""
T = TypeVar("T")


class Work(Protocol):
    """Batches for a device that does them in the order in which they are started. None of this raises."""

    @property
    def under_way(self) -> int:
        """Batches that were started and have not ended."""
        ...

    def start(self) -> bool:
        """Start the next batch; False if there is none left, or none is wanted any more."""
        ...

    def look(self) -> bool:
        """Take in what the device has done; whether there was anything."""
        ...

    def end(self, future: Future[int]) -> None:
        """Say what came of it. Called once, when nothing is under way and `start` was False."""
        ...


class Line:
    """Work in the order in which it was given, one batch after another whosesoever they are.

    What was cancelled before its first batch never starts; what has begun ends only when the device has.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kv-push")
        self._waiting: deque[tuple[Work, Future[int]]] = deque()
        self._begun: list[tuple[Work, Future[int]]] = []
        self._more = False
        """Whether the last that was begun may have more batches to start."""
        self._moved_at = 0.0
        """When something happened last."""

    def add(self, work: Work) -> Future[int]:
        """Carry it out; its future ends as `Work.end` says."""
        future: Future[int] = Future()
        self._waiting.append((work, future))
        self._thread.submit(self._until, future)
        return future

    def run(self, call: Callable[[], T]) -> Future[T]:
        """Call in the thread, while nothing is under way; work given before may not have begun."""
        return self._thread.submit(self._alone, call)

    def close(self) -> None:
        """Wait for all of it."""
        self._thread.shutdown()

    # ---- in the thread --------------------------------------------------------------------------------------

    def _until(self, future: Future[int]) -> None:
        self._moved_at = time.monotonic()
        while not future.done():
            self._turn(begin=True)

    def _alone(self, call: Callable[[], T]) -> T:
        while self._begun:
            self._turn(begin=False)
        return call()

    def _turn(self, *, begin: bool) -> None:
        """Start one batch if there is room, take in what has ended; wait a little if there was nothing to do."""
        moved = self._start(begin=begin)
        for work, _ in self._begun:
            moved |= work.look()
        moved |= self._end()
        now = time.monotonic()
        if moved:
            self._moved_at = now
        elif now - self._moved_at < SPIN_S:
            os.sched_yield()  # sleep(0) costs the 50 µs of a timer's slack
        else:
            time.sleep(PAUSE_S)

    def _start(self, *, begin: bool) -> bool:
        """One batch; whether there was anything to start."""
        if sum(work.under_way for work, _ in self._begun) > AHEAD:
            return False
        if self._more:
            self._more = self._begun[-1][0].start()
            return True
        if not begin or not self._waiting:
            return False
        work, future = self._waiting.popleft()
        if future.set_running_or_notify_cancel():
            self._begun.append((work, future))
            self._more = work.start()
        return True

    def _end(self) -> bool:
        """Let go of what is over; whether anything was."""
        running = [(w, f) for w, f in self._begun if w.under_way or (self._more and w is self._begun[-1][0])]
        over = [item for item in self._begun if item not in running]
        self._begun = running
        for work, future in over:
            work.end(future)
        return bool(over)
