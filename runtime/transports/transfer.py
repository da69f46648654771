"""A write that threads carry out, and the checks every write passes first."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Executor, Future

from dynamoc.runtime.kv.layout import KvLayout, Span
from dynamoc.runtime.kv.pool import HostPool, Pool
from dynamoc.runtime.kv.transfer.checksums import Table
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.kv.transfer.rows import Rows
from dynamoc.runtime.transports.protocol import Completion, Outcome, Transfer, TransportError

Digest = Callable[[Rows], int]
"""The checksum of a unit; another one than xxh3-64 only to measure what it costs."""
HOST_PART_BYTES = 8 << 20
"""Between processors: 1 ms to move, half of it to verify, half a millisecond for a message and a thread."""


class Stopped(Exception):  # noqa: N818  (an ending, not always an error)
    """Raised inside a transfer's threads to end it."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def check_pairs(pairs: BlockPairs, sources: int, destinations: int) -> None:
    """TransportError if a block is outside its pool or two sources have one destination."""
    fault = pairs.fault(sources, destinations)
    if fault:
        raise TransportError(fault)


def check_span(layout: KvLayout, layers: range | None) -> Span:
    """Where these layers are in a block; TransportError if there are no such layers."""
    try:
        return layout.span(layers)
    except ValueError as error:
        raise TransportError(str(error)) from error


def host_pool(pool: Pool, transport: str) -> HostPool:
    """The pool, if it is one that this process's own instructions reach; TransportError if not."""
    if not isinstance(pool, HostPool):
        raise TransportError(f"{transport} moves host memory, and this pool is memory of GPU {pool.device}")
    return pool


class ThreadedTransfer:
    """A Transfer whose lanes run in other threads; the first lane that fails stops the others.

    A lane calls `check` between units and fills their `checksums`; no two lanes have a unit in common.
    """

    def __init__(self, pairs: BlockPairs, checksums: Table, deadline_s: float) -> None:
        self.pairs = pairs
        self.checksums = checksums
        self.ready_at = time.monotonic()
        """When its bytes were there to be moved; a lane that has to wait for them sets it."""
        self._started_at = self.ready_at
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._completion: Completion | None = None
        self._waiters: list[asyncio.Future[Completion]] = []
        self._calls: list[Callable[[], object]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._stopped: Stopped | None = None
        self._failed: BaseException | None = None
        self._lanes: list[Future[int]] = []
        self._running = 0

    def run(self, executor: Executor, lanes: Sequence[Callable[[], int]]) -> None:
        """Start the lanes; each returns how many bytes it moved. Without lanes the transfer is done."""
        self.follow([executor.submit(self._guard, lane) for lane in lanes])

    def follow(self, lanes: Sequence[Future[int]]) -> None:
        """End as these lanes, which somebody else runs, end."""
        self._lanes, self._running = list(lanes), len(lanes)
        self._timer = self._loop.call_later(self._deadline_s, self._expire)
        for lane in lanes:
            lane.add_done_callback(self._lane_ended)
        if not lanes:
            self._settle()

    def on_settled(self, call: Callable[[], object]) -> None:
        """Call back on the event loop once the outcome is known."""
        if self._completion is None:
            self._calls.append(call)
        else:
            self._loop.call_soon(call)

    async def wait(self) -> Completion:
        """How it ended."""
        if self._completion is not None:
            return self._completion
        waiter: asyncio.Future[Completion] = self._loop.create_future()
        self._waiters.append(waiter)
        return await waiter

    def cancel(self) -> None:
        """Ask the lanes to stop before their next unit."""
        self.stop(Stopped(Outcome.CANCELLED, "cancelled"))

    def stop(self, why: Stopped) -> None:
        """End the transfer for this reason, unless it has one already."""
        if self._stopped is None and self._completion is None:
            self._stopped = why
            self._stop.set()
            for lane in self._lanes:
                lane.cancel()

    @property
    def remaining_s(self) -> float:
        """Time left until the deadline; negative when it is past."""
        return self._started_at + self._deadline_s - time.monotonic()

    def check(self) -> None:
        """Stopped if the lanes must not go on."""
        if self._stop.is_set():
            raise self._stopped or Stopped(Outcome.FAILURE, "another lane failed")
        if self.remaining_s <= 0:
            raise self._late()

    def _late(self) -> Stopped:
        return Stopped(Outcome.FAILURE, f"not finished within {self._deadline_s:.3f} s")

    def _expire(self) -> None:
        self.stop(self._late())

    def _guard(self, lane: Callable[[], int]) -> int:
        try:
            return lane()
        except BaseException as error:
            self._failed = self._failed or error
            self._stop.set()
            raise

    def _lane_ended(self, lane: Future[int]) -> None:
        """In the lane's thread. Straight to the event loop: what waits for a prompt waits for every hop."""
        del lane
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._count)

    def _count(self) -> None:
        self._running -= 1
        if not self._running:
            self._settle()

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._completion = completion = self._outcome([_result_of(lane) for lane in self._lanes])
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(completion)
        for call in self._calls:
            call()

    def _outcome(self, results: Sequence[int | BaseException]) -> Completion:
        moved = sum(result for result in results if isinstance(result, int))
        seconds = time.monotonic() - self.ready_at
        if all(isinstance(result, int) for result in results):
            return Completion(Outcome.SUCCESS, moved, seconds, self.checksums)
        raised = (r for r in results if isinstance(r, BaseException) and not isinstance(r, CancelledError))
        why = self._failed or next(raised, None) or self._stopped
        outcome = why.outcome if isinstance(why, Stopped) else Outcome.FAILURE
        return Completion(outcome, moved, seconds, reason=str(why))


def _result_of(lane: Future[int]) -> int | BaseException:
    """Of a lane that has ended."""
    if lane.cancelled():
        return CancelledError()
    return lane.exception() or lane.result()


async def cancel_all(transfers: Iterable[Transfer]) -> None:
    """Cancel what runs, and wait until none of it writes any more."""
    running = list(transfers)
    for transfer in running:
        transfer.cancel()
    await asyncio.gather(*(transfer.wait() for transfer in running))
