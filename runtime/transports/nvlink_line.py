"""Work for a device, driven by the event loop: the next piece is started before the last one has ended.

To wake a thread, or an event loop that sleeps, takes as long as the device takes for 70 MB. So the loop itself starts
work, and looks for its end without pause while bytes move; while the device still computes what is to be moved, a
thread looks instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from dynamoc.runtime.kv.cuda.device import PAUSE_S, SPIN_S

AHEAD = 1
"""Batches started while another runs, so that the device never waits for the event loop."""
LOOK_S = 0.1
"""Between two looks at work that a thread waits for."""
T = TypeVar("T")


class Work(Protocol):
    """Batches for a device that does them in the order in which they are started. None of this raises."""

    @property
    def under_way(self) -> int:
        """Batches that were started and have not ended."""
        ...

    @property
    def waits(self) -> bool:
        """Whether the device has yet to do what comes before it. Read by a thread too."""
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
    """Work in the order in which it was given, one batch after another whosesoever they are. Of one event loop.

    What was cancelled before its first batch never starts; what has begun ends only when the device has.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(2, thread_name_prefix="kv-push")  # one waits, one makes calls
        self._waiting: deque[tuple[Work, Future[int]]] = deque()
        self._begun: list[tuple[Work, Future[int]]] = []
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._is_called = self._is_watched = False
        self._more = False
        """Whether the last that was begun may have more batches to start."""
        self._moved_at = 0.0
        """When something happened last."""
        self._next_turn: asyncio.Handle | None = None

    def add(self, work: Work) -> Future[int]:
        """Carry it out, from now on if there is room; its future ends as `Work.end` says."""
        future: Future[int] = Future()
        self._waiting.append((work, future))
        self._turn()
        return future

    def run(self, call: Callable[[], T]) -> Future[T]:
        """Call in a thread while nothing is under way, and before work that has not begun."""
        future: Future[T] = Future()
        self._calls.append((call, future))
        self._turn()
        return future

    def close(self) -> None:
        """Let go of the threads. All that was given must be over."""
        self._thread.shutdown()

    # ---- inside ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Start batches as there is room, take in what has ended; see to the next turn."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        moved = False
        while self._start():
            moved = True
        for work, _ in self._begun:
            moved |= work.look()
        moved |= self._end()
        now = time.monotonic()
        if moved:
            self._moved_at = now
        self._see_to_next(now)

    def _see_to_next(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        if self._begun:
            waits = self._begun[0][0].waits
            if now == self._moved_at or (not waits and now - self._moved_at < SPIN_S):
                self._next_turn = loop.call_soon(self._turn)
                return
            if waits and not self._is_watched:
                self._is_watched = True
                self._in_thread(loop, functools.partial(_watch, self._begun[0][0]), self._has_watched)
            # What is no longer wanted has to be seen while the device keeps it.
            self._next_turn = loop.call_later(LOOK_S if waits else PAUSE_S, self._turn)
        elif self._calls and not self._is_called:
            self._is_called = True
            self._in_thread(loop, functools.partial(_call, *self._calls.popleft()), self._has_called)
        elif now == self._moved_at:
            self._next_turn = loop.call_soon(self._turn)

    def _start(self) -> bool:
        """One batch; whether there was anything to start."""
        if sum(work.under_way for work, _ in self._begun) > AHEAD:
            return False
        if self._more:
            self._more = self._begun[-1][0].start()
            return True
        if not self._waiting or self._calls or self._is_called:
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

    def _in_thread(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None], after: Callable[[], None]) -> None:
        def tell(_: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(after)

        self._thread.submit(call).add_done_callback(tell)

    def _has_watched(self) -> None:
        self._is_watched = False
        self._moved_at = time.monotonic()
        self._turn()

    def _has_called(self) -> None:
        self._is_called = False
        self._turn()


def _watch(work: Work) -> None:
    while work.waits:
        time.sleep(PAUSE_S)


def _call(call: Callable[[], Any], future: Future[Any]) -> None:
    """Its outcome is the future's."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (whoever waits gets it)
            future.set_exception(error)
