"""A write that threads carry out, and the checks every write passes first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from dynamoc.runtime.transports.protocol import BlockPair, Completion, Outcome, TransportError

Digest = Callable[[memoryview], int]
"""The checksum of a block; another one than xxh3-64 only to measure what it costs."""


class Stopped(Exception):  # noqa: N818  (an ending, not always an error)
    """Raised inside a transfer's threads to end it."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def check_pairs(pairs: Sequence[BlockPair], sources: int, destinations: int) -> None:
    """TransportError if a block is outside its pool or two sources have one destination."""
    seen: set[int] = set()
    for pair in pairs:
        if not 0 <= pair.source < sources:
            raise TransportError(f"source block {pair.source} is outside my pool of {sources} blocks")
        if not 0 <= pair.destination < destinations:
            raise TransportError(f"destination block {pair.destination} is outside a pool of {destinations} blocks")
        seen.add(pair.destination)
    if len(seen) != len(pairs):
        raise TransportError(f"{len(pairs) - len(seen)} of {len(pairs)} destination blocks are named twice")


class ThreadedTransfer:
    """A Transfer whose lanes run in an executor; the first lane that fails stops the others.

    A lane calls `check` between blocks and `sent` after each; it owns the blocks it sends, so no lock is needed.
    """

    def __init__(self, pairs: Sequence[BlockPair], block_bytes: int, deadline_s: float) -> None:
        self.pairs = pairs
        self.checksums = [0] * len(pairs)
        self._block_bytes = block_bytes
        self._started_at = time.monotonic()
        self._deadline_s = deadline_s
        self._done: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._stop = threading.Event()
        self._stopped: Stopped | None = None
        self._failed: BaseException | None = None
        self._lanes: list[Future[int]] = []

    def run(self, executor: Executor, lanes: Sequence[Callable[[], int]]) -> None:
        """Start the lanes; each returns how many blocks it moved. Without lanes the transfer is done."""
        loop = asyncio.get_running_loop()
        self._lanes = [executor.submit(self._guard, lane) for lane in lanes]
        timer = loop.call_later(self._deadline_s, self._expire)
        waiting = asyncio.gather(*map(asyncio.wrap_future, self._lanes), return_exceptions=True)
        waiting.add_done_callback(lambda settled: self._settle(settled.result(), timer))

    def on_settled(self, call: Callable[[], object]) -> None:
        """Call back on the event loop once the outcome is known."""
        self._done.add_done_callback(lambda _: call())

    async def wait(self) -> Completion:
        """How it ended."""
        return await asyncio.shield(self._done)

    def cancel(self) -> None:
        """Ask the lanes to stop before their next block."""
        self.stop(Stopped(Outcome.CANCELLED, "cancelled"))

    def stop(self, why: Stopped) -> None:
        """End the transfer for this reason, unless it has one already."""
        if self._stopped is None and not self._done.done():
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

    def _settle(self, results: Sequence[int | BaseException], timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        if self._done.done():
            return
        moved = sum(result for result in results if isinstance(result, int)) * self._block_bytes
        seconds = time.monotonic() - self._started_at
        if all(isinstance(result, int) for result in results):
            self._done.set_result(Completion(Outcome.SUCCESS, moved, seconds, tuple(self.checksums)))
            return
        why = self._failed or self._stopped
        outcome = why.outcome if isinstance(why, Stopped) else Outcome.FAILURE
        self._done.set_result(Completion(outcome, moved, seconds, reason=str(why)))
