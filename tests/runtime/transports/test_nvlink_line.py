"""The line of work for one device: batches in order, the next begun before the last has ended, nothing lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.runtime.transports.nvlink_line import AHEAD, Line

LIMIT_S = 20


class Device:
    """Does batches in the order in which they were started, each when the test says so, or at once."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.most_under_way = 0
        self.holds = threading.Event()
        self._queue: deque[tuple[str, int]] = deque()
        self._done: set[tuple[str, int]] = set()

    def start(self, name: str, batch: int) -> None:
        self.started.append((name, batch))
        self._queue.append((name, batch))
        self.most_under_way = max(self.most_under_way, len(self._queue))

    def is_done(self, name: str, batch: int) -> bool:
        if self._queue and not self.holds.is_set():
            self._done.add(self._queue.popleft())
        return (name, batch) in self._done


class Copies:
    """Some batches of one piece of work; `fails_at` is a batch that cannot be started."""

    def __init__(self, device: Device, name: str, batches: int, fails_at: int = -1) -> None:
        self.device, self.name, self.batches, self.fails_at = device, name, batches, fails_at
        self.ended = 0
        self._next = 0
        self._running: deque[int] = deque()
        self._failure: Exception | None = None

    @property
    def under_way(self) -> int:
        return len(self._running)

    def start(self) -> bool:
        if self._failure is not None or self._next == self.batches:
            return False
        if self._next == self.fails_at:
            self._failure = OSError(f"{self.name} failed")
            return False
        self.device.start(self.name, self._next)
        self._running.append(self._next)
        self._next += 1
        return True

    def look(self) -> bool:
        before = len(self._running)
        while self._running and self.device.is_done(self.name, self._running[0]):
            self._running.popleft()
        return len(self._running) < before

    def end(self, future: Future[int]) -> None:
        self.ended += 1
        assert not self._running
        if self._failure is None:
            future.set_result(self._next)
        else:
            future.set_exception(self._failure)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), min_size=1, max_size=8))
def test_all_work_ends_in_order_and_once(sizes: list[tuple[int, int]]) -> None:
    device, line = Device(), Line()
    works = [Copies(device, str(turn), batches, fails) for turn, (batches, fails) in enumerate(sizes)]
    futures = [line.add(work) for work in works]
    for work, future in zip(works, futures, strict=True):
        fails = 0 <= work.fails_at < work.batches
        assert isinstance(future.exception(LIMIT_S), OSError) if fails else future.result(LIMIT_S) == work.batches
        assert work.ended == 1
    line.close()

    wanted = [(w.name, n) for w in works for n in range(w.fails_at if 0 <= w.fails_at < w.batches else w.batches)]
    assert device.started == wanted
    assert device.most_under_way <= AHEAD + 1


def test_the_next_is_begun_while_the_last_is_under_way(line: Line) -> None:
    device = Device()
    device.holds.set()
    works = [Copies(device, name, 1) for name in "abc"]
    futures = [line.add(work) for work in works]
    called = line.run(lambda: [work.under_way for work in works])
    while len(device.started) < 2:
        threading.Event().wait(0.001)

    assert device.started == [("a", 0), ("b", 0)]
    assert not futures[0].done()
    device.holds.clear()
    assert [future.result(LIMIT_S) for future in futures] == [1, 1, 1]
    assert called.result(LIMIT_S) == [0, 0, 0], "what is called alone finds nothing under way"
    assert device.most_under_way == 2


def test_what_is_cancelled_before_its_turn_never_starts_and_what_has_begun_is_waited_for(line: Line) -> None:
    device = Device()
    device.holds.set()
    futures = [line.add(Copies(device, name, 1)) for name in "abcd"]
    while len(device.started) < 2:
        threading.Event().wait(0.001)

    assert [future.cancel() for future in futures] == [False, False, True, True]
    device.holds.clear()
    last = line.add(Copies(device, "e", 2))
    assert last.result(LIMIT_S) == 2
    assert [future.result(LIMIT_S) for future in futures[:2]] == [1, 1]
    assert [name for name, _ in device.started] == ["a", "b", "e", "e"]


def test_a_call_waits_for_what_has_begun_and_lets_nothing_else_begin(line: Line) -> None:
    device = Device()
    device.holds.set()
    first = line.add(Copies(device, "a", 2))
    while len(device.started) < 2:
        threading.Event().wait(0.001)
    called = line.run(lambda: list(device.started))
    second = line.add(Copies(device, "b", 1))
    device.holds.clear()

    assert [first.result(LIMIT_S), second.result(LIMIT_S)] == [2, 1]
    assert ("a", 1) in called.result(LIMIT_S)


def test_a_call_that_raises_says_so_and_the_line_goes_on(line: Line) -> None:
    called = line.run(lambda: 1 // 0)

    assert isinstance(called.exception(LIMIT_S), ZeroDivisionError)
    assert line.add(Copies(Device(), "a", 3)).result(LIMIT_S) == 3
