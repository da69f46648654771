"""One prompt's KV on its way to a decode worker: pushed group by group of layers while the rest is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.plane.messages import PrefillRequest, WrittenLayers
from dynamoc.runtime.transports.protocol import Completion, Outcome, Peer, Transfer, Transport, TransportError
from dynamoc.runtime.worker.telemetry import Telemetry

SMALL_BYTES = 1 << 20
"""So little is written as one, after its last layer: groups would cost more than they hide."""
FIRST_RATE = 200e6
"""Bytes per second a transfer is taken to reach before one was measured."""
SLOWEST_SHARE = 0.1
"""A transfer slower than this share of the measured rate is stuck."""
STEP_S = 30.0
"""A write that waits for the device gets the time that a step may take besides."""


class Pace:
    """How fast transfers are here, and so how long one may take."""

    def __init__(self) -> None:
        self._rate = FIRST_RATE

    def patience_s(self, size: int) -> float:
        """After this time a transfer of `size` bytes is stuck."""
        return 1.0 + size / (SLOWEST_SHARE * self._rate)

    def observe(self, size: int, seconds: float) -> None:
        """So much arrived in that time."""
        if size:
            self._rate += 0.2 * (size / max(seconds, 1e-6) - self._rate)


@dataclass(frozen=True, slots=True)
class _Part:
    """`layers` of destinations `first` to `first + len(pairs)`."""

    first: int
    pairs: BlockPairs
    layers: range


class Pushes:
    """The writes of one prompt. Begun in order, each as soon as its bytes are there; none after `stop` or a failure.

    `on_arrived` hears of each write that succeeded, `on_failed` once of the first one that did not.
    """

    def __init__(
        self,
        transport: Transport,
        layout: KvLayout,
        request: PrefillRequest,
        peer: Callable[[], Peer | None],
        expires_at: float,
        pace: Pace,
        telemetry: Telemetry,
    ) -> None:
        self.failure = ""
        """Why the prompt's KV will not be complete; empty if nothing failed."""
        self.moved_bytes = 0
        self.on_arrived: Callable[[WrittenLayers], None] = lambda _part: None
        self.on_failed: Callable[[], None] = lambda: None
        self._transport = transport
        self._layout = layout
        self._request = request
        self._peer = peer
        self._expires_at = expires_at
        self._pace = pace
        self._telemetry = telemetry
        self._loop = asyncio.get_running_loop()
        self.is_stopped = False
        self._waiting: _Part | None = None
        self._transfers: dict[asyncio.Task[None], tuple[Transfer, int]] = {}
        self._begun_at = 0.0
        self._ended_at = 0.0
        self._complete = 0

    @property
    def complete(self) -> int:
        """Leading destinations whose every layer was given to the transport."""
        return self._complete

    @property
    def seconds(self) -> float:
        """From the beginning of the first write to the end of the last."""
        return self._ended_at - self._begun_at

    def written(self, written: Written) -> None:
        """More of the prompt is there: push it, unless it is little and the rest of it is about to follow."""
        part = self._part(written)
        if self.is_stopped or part is None:
            return
        earlier, self._waiting = self._waiting, None
        if earlier is not None:
            part = _Part(part.first, part.pairs, range(earlier.layers.start, part.layers.stop))
        is_last = part.layers.stop == self._layout.layers
        if not is_last and len(part.pairs) * self._layout.block_bytes <= SMALL_BYTES:
            self._waiting = part
            return
        try:
            self._begin(part, written.event)
        except TransportError as error:
            self._fail(str(error))
            return
        if is_last:
            self._complete = part.first + len(part.pairs)

    def stop(self) -> None:
        """Begin nothing more and end what runs, as soon as it can be ended."""
        self.is_stopped = True
        for transfer, _ in self._transfers.values():
            transfer.cancel()

    async def settle(self) -> None:
        """Wait until nothing is written any more; whatever is to be written was told before."""
        asked_at, left = self._loop.time(), sum(size for _, size in self._transfers.values())
        while self._transfers:
            await asyncio.wait(self._transfers)
        exposed_s = max(0.0, self._ended_at - asked_at)
        if not self.is_stopped and self.moved_bytes:
            self._pace.observe(left, exposed_s)
            self._telemetry.exposed(exposed_s)

    # ---- inside -------------------------------------------------------------------------------------------

    def _part(self, written: Written) -> _Part | None:
        """What of it the decode worker asked for."""
        skipped = max(0, self._request.first_block - written.first)
        sources = written.blocks[skipped:]
        if not sources:
            return None
        first = written.first + skipped - self._request.first_block
        destinations = self._request.blocks[first : first + len(sources)]
        if len(destinations) != len(sources):
            self._fail(f"{first + len(sources)} blocks were computed for {len(self._request.blocks)} destinations")
            return None
        return _Part(first, BlockPairs.of(sources, destinations), written.layers)

    def _begin(self, part: _Part, event: int | None) -> None:
        """TransportError if it cannot be written."""
        peer = self._peer()
        if peer is None:
            raise TransportError("the decode worker is gone")
        size = len(part.pairs) * self._layout.span(part.layers).size
        ahead = sum(size for _, size in self._transfers.values())
        patience_s = self._pace.patience_s(ahead + size) + (0.0 if event is None else STEP_S)
        now = self._loop.time()
        generation, deadline_s = self._request.generation, min(patience_s, self._expires_at - now)
        transfer = self._transport.write(peer, part.pairs, deadline_s, generation, part.layers, event)
        self._begun_at = self._begun_at or now
        task = self._loop.create_task(self._follow(part, transfer))
        self._transfers[task] = transfer, size
        task.add_done_callback(self._ended)

    async def _follow(self, part: _Part, transfer: Transfer) -> None:
        with self._telemetry.transfer_under_way():
            completion = await transfer.wait()
        self._ended_at = self._loop.time()
        # A block is counted with its last layers, so that each counts once.
        blocks = len(part.pairs) if part.layers.stop == self._layout.layers else 0
        self._telemetry.transferred(completion, blocks)
        self.moved_bytes += completion.moved_bytes
        if completion.outcome is Outcome.SUCCESS:
            self.on_arrived(_told(part, completion))
        elif completion.outcome is Outcome.FAILURE:
            self._fail(f"transfer failed: {completion.reason}")

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._transfers[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(f"transfer failed: {error}")

    def _fail(self, reason: str) -> None:
        if self.is_stopped:
            return
        self.failure = reason
        self.stop()
        self.on_failed()


def _told(part: _Part, completion: Completion) -> WrittenLayers:
    checksums = completion.checksums.astype("<u8").tobytes()
    return WrittenLayers(part.layers.start, part.layers.stop, part.first, len(part.pairs), checksums)
