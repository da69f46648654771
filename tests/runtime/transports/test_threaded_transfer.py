"""Transfers that threads carry out: everybody who waits hears the one truth, whoever else stops waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports.protocol import Outcome
from dynamoc.runtime.transports.transfer import ThreadedTransfer

LIMIT_S = 20.0


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def transfer(deadline_s: float = LIMIT_S) -> ThreadedTransfer:
    return ThreadedTransfer(BlockPairs.of([0, 1], [1, 0]), np.zeros(2, np.uint64), deadline_s)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), LIMIT_S))


def test_all_who_wait_hear_the_same(executor: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def lane() -> int:
        gate.wait(LIMIT_S)
        return 5

    async def test() -> None:
        made, heard = transfer(), []
        made.on_settled(lambda: heard.append("before"))
        made.run(executor, [lane, lane])
        waiting = [asyncio.ensure_future(made.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        gate.set()
        first, last = await waiting[0], await waiting[2]

        assert first is last is await made.wait()
        assert (first.outcome, first.moved_bytes) == (Outcome.SUCCESS, 10)
        assert waiting[1].cancelled()
        made.on_settled(lambda: heard.append("after"))
        await asyncio.sleep(0)
        assert heard == ["before", "after"]

    run(test)


def test_a_lane_that_fails_stops_the_others(executor: ThreadPoolExecutor) -> None:
    async def test() -> None:
        made = transfer()
        ended = threading.Event()

        def endless() -> int:
            while True:
                try:
                    made.check()
                except BaseException:
                    ended.set()
                    raise
                ended.wait(0.001)

        def fails() -> int:
            raise OSError("no route")

        made.run(executor, [endless, fails])
        found = await made.wait()

        assert (found.outcome, found.reason) == (Outcome.FAILURE, "no route")
        assert ended.is_set(), "it is over only when no lane runs any more"
        made.cancel()
        assert (await made.wait()).outcome is Outcome.FAILURE, "what has ended stays as it ended"

    run(test)


def test_lanes_that_never_began_end_at_once() -> None:
    async def test() -> None:
        made, lane = transfer(), Future[int]()
        made.follow([lane])
        made.cancel()
        found = await made.wait()

        assert (found.outcome, found.reason, found.moved_bytes) == (Outcome.CANCELLED, "cancelled", 0)
        assert lane.cancelled()

    run(test)


def test_a_lane_of_somebody_else_fails_in_its_own_words() -> None:
    async def test() -> None:
        made, lane = transfer(), Future[int]()
        made.follow([lane])
        lane.set_exception(OSError("the device failed"))

        assert (await made.wait()).reason == "the device failed"

    run(test)


def test_a_deadline_ends_what_has_not_begun() -> None:
    async def test() -> None:
        made = transfer(0.05)
        made.follow([Future()])
        found = await made.wait()

        assert (found.outcome, found.reason) == (Outcome.FAILURE, "not finished within 0.050 s")

    run(test)


def test_without_lanes_it_is_done() -> None:
    async def test() -> None:
        made = transfer()
        made.follow([])

        assert (await made.wait()).outcome is Outcome.SUCCESS

    run(test)


def test_a_lane_that_outlives_its_loop_disturbs_nobody() -> None:
    lane = Future[int]()

    async def test() -> None:
        transfer().follow([lane])

    run(test)
    lane.set_result(1)

    assert lane.result() == 1
