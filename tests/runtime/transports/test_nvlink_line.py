"""The line of work for one device: batches in order, the next begun before the last has ended, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.runtime.transports.nvlink_line import AHEAD, Line

LIMIT_S = 20


class Device:
    """Does batches in the order in which they were started, each when the test says so, or at once."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.most_under_way = 0
        self.holds = self.computes = False
        self.looks = 0
        self.lookers: set[str] = set()
        self._queue: deque[tuple[str, int]] = deque()
        self._done: set[tuple[str, int]] = set()

    def start(self, name: str, batch: int) -> None:
        self.started.append((name, batch))
        self._queue.append((name, batch))
        self.most_under_way = max(self.most_under_way, len(self._queue))

    def is_done(self, name: str, batch: int) -> bool:
        self.looks += 1
        if self._queue and not self.holds and not self.computes:
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

    @property
    def waits(self) -> bool:
        self.device.lookers.add(threading.current_thread().name.split("_")[0])
        return self.device.computes

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


@contextlib.asynccontextmanager
async def a_line() -> AsyncIterator[Line]:
    made = Line()
    async with asyncio.timeout(LIMIT_S):
        yield made
    await asyncio.to_thread(made.close)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def outcome(future: Future[int]) -> int | BaseException:
    await asyncio.wait([waited := asyncio.wrap_future(future)])
    return waited.exception() or waited.result()


def test_there_is_work_behind_the_first_batch_before_anybody_looks_at_it() -> None:
    async def scenario() -> None:
        device = Device()
        device.holds = True
        async with a_line() as line:
            future = line.add(Copies(device, "a", 5))

            assert device.started == [("a", batch) for batch in range(AHEAD + 1)]
            device.holds = False
            assert await outcome(future) == 5

    asyncio.run(scenario())


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), min_size=1, max_size=8))
def test_all_work_ends_in_order_and_once(sizes: list[tuple[int, int]]) -> None:
    device = Device()
    works = [Copies(device, str(turn), batches, fails) for turn, (batches, fails) in enumerate(sizes)]

    async def test() -> None:
        async with a_line() as line:
            futures = [line.add(work) for work in works]
            for work, future in zip(works, futures, strict=True):
                fails, found = 0 <= work.fails_at < work.batches, await outcome(future)
                assert isinstance(found, OSError) if fails else found == work.batches
                assert work.ended == 1

    asyncio.run(test())
    wanted = [(w.name, n) for w in works for n in range(w.fails_at if 0 <= w.fails_at < w.batches else w.batches)]
    assert device.started == wanted
    assert device.most_under_way <= AHEAD + 1


def test_the_next_is_begun_while_the_last_is_under_way() -> None:
    async def test() -> None:
        async with a_line() as line:
            device = Device()
            device.holds = True
            works = [Copies(device, name, 1) for name in "abc"]
            futures = [line.add(works[0])]
            assert device.started == [("a", 0)], "started by whoever gave it"
            futures += map(line.add, works[1:])
            called = line.run(lambda: [work.under_way for work in works])
            await until(lambda: len(device.started) == 2)
            await asyncio.sleep(0.05)

            assert device.started == [("a", 0), ("b", 0)]
            assert not futures[0].done()
            device.holds = False
            assert [await outcome(future) for future in futures] == [1, 1, 1]
            assert await asyncio.wrap_future(called) == [0, 0, 0], "what is called alone finds nothing under way"
            assert device.most_under_way == 2

    asyncio.run(test())


def test_what_is_cancelled_before_its_turn_never_starts_and_what_has_begun_is_waited_for() -> None:
    async def test() -> None:
        async with a_line() as line:
            device = Device()
            device.holds = True
            futures = [line.add(Copies(device, name, 1)) for name in "abcd"]
            await until(lambda: len(device.started) == 2)

            assert [future.cancel() for future in futures] == [False, False, True, True]
            device.holds = False
            assert await outcome(line.add(Copies(device, "e", 2))) == 2
            assert [await outcome(future) for future in futures[:2]] == [1, 1]
            assert [name for name, _ in device.started] == ["a", "b", "e", "e"]

    asyncio.run(test())


def test_a_call_waits_for_what_has_begun_and_lets_nothing_else_begin() -> None:
    async def test() -> None:
        async with a_line() as line:
            device = Device()
            device.holds = True
            first = line.add(Copies(device, "a", 2))
            await until(lambda: len(device.started) == 2)
            called = line.run(lambda: list(device.started))
            second = line.add(Copies(device, "b", 1))
            device.holds = False

            assert [await outcome(first), await outcome(second)] == [2, 1]
            assert await asyncio.wrap_future(called) == [("a", 0), ("a", 1)]

    asyncio.run(test())


def test_a_call_that_raises_says_so_and_the_line_goes_on() -> None:
    async def test() -> None:
        async with a_line() as line:
            assert isinstance(await outcome(line.run(lambda: 1 // 0)), ZeroDivisionError)
            assert await outcome(line.add(Copies(Device(), "a", 3))) == 3

    asyncio.run(test())


def test_a_thread_waits_for_what_is_still_computed_and_the_event_loop_rests() -> None:
    async def test() -> None:
        async with a_line() as line:
            device = Device()
            device.computes = True
            futures = [line.add(Copies(device, name, 1)) for name in "ab"]
            await until(lambda: len(device.started) == 2)
            before = device.looks
            await asyncio.sleep(0.5)
            assert device.looks - before <= 50, "the loop looks now and then, not all the time"
            assert "kv-push" in device.lookers
            device.computes = False
            freed = time.monotonic()
            assert [await outcome(future) for future in futures] == [1, 1]
            assert not device.holds
            assert time.monotonic() - freed < LIMIT_S

    asyncio.run(test())


def test_an_idle_line_takes_no_turns() -> None:
    async def test() -> None:
        async with a_line() as line:
            device = Device()
            await outcome(line.add(Copies(device, "a", 2)))
            await asyncio.wrap_future(line.run(lambda: None))
            await asyncio.sleep(0.02)
            loop, turns = asyncio.get_running_loop(), 0
            began = loop.time()
            while loop.time() - began < 0.1:
                await asyncio.sleep(0.01)
                turns += 1
            assert turns <= 11
            assert not any("_turn" in repr(handle) for handle in loop._ready)  # type: ignore[attr-defined]

    asyncio.run(test())
