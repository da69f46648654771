"""One prompt's KV on its way to a decode worker: pushed group by group of layers while the rest is computed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.plane.messages import PrefillRequest, WrittenLayers
from dynamoc.runtime.transports.protocol import Completion, Outcome, Peer, Transfer, Transport, TransportError
from dynamoc.runtime.worker.parts import Part
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
        self._waiting: Part | None = None
        self._transfers: dict[asyncio.Task[None], tuple[Transfer, int]] = {}
        self._begun_at = 0.0
        self._ready: list[float] = []
        """When each of what was told was computed, as far as it is known."""
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

    @property
    def age_s(self) -> float:
        """How long ago the last of what was pushed had been computed."""
        now = time.monotonic()
        return now - max(self._ready, default=now)

    def written(self, written: Written) -> None:
        """More of the prompt is there: push it, unless it is little and the rest of it is about to follow."""
        part = self._part(written)
        if self.is_stopped or part is None:
            return
        earlier, self._waiting = self._waiting, None
        if earlier is not None:
            part = Part(part.first, part.pairs, range(earlier.layers.start, part.layers.stop))
        is_last = part.layers.stop == self._layout.layers
        if not is_last and len(part.pairs) * self._layout.block_bytes <= SMALL_BYTES:
            self._waiting = part
            return
        size = len(part.pairs) * self._layout.span(part.layers).size
        self._ready.append(time.monotonic() if written.event is None else math.inf)
        try:
            # What goes before the last layer is verified while that is computed: only what ends a prompt is cut.
            for piece in part.cut(size, self._transport.part_bytes) if is_last else [part]:
                self._begin(piece, written.event)
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
        asked_at, left = time.monotonic(), sum(size for _, size in self._transfers.values())
        while self._transfers:
            await asyncio.wait(self._transfers)
        if not self.is_stopped and self.moved_bytes:
            exposed_s = max(0.0, self._ended_at - asked_at)
            self._pace.observe(left, exposed_s)
            self._telemetry.exposed(exposed_s)

    # ---- inside -------------------------------------------------------------------------------------------

    def _part(self, written: Written) -> Part | None:
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
        return Part(first, BlockPairs.of(sources, destinations), written.layers)

    def _begin(self, part: Part, event: int | None) -> None:
        """TransportError if it cannot be written."""
        peer = self._peer()
        if peer is None:
            raise TransportError("the decode worker is gone")
        size = len(part.pairs) * self._layout.span(part.layers).size
        ahead = sum(size for _, size in self._transfers.values())
        patience_s = self._pace.patience_s(ahead + size) + (0.0 if event is None else STEP_S)
        now = time.monotonic()
        generation, deadline_s = self._request.generation, min(patience_s, self._expires_at - now)
        transfer = self._transport.write(peer, part.pairs, deadline_s, generation, part.layers, event)
        self._begun_at = self._begun_at or now
        task = self._loop.create_task(self._follow(part, transfer, len(self._ready) - 1))
        self._transfers[task] = transfer, size
        task.add_done_callback(self._ended)

    async def _follow(self, part: Part, transfer: Transfer, turn: int) -> None:
        with self._telemetry.transfer_under_way():
            completion = await transfer.wait()
        self._ended_at = time.monotonic()
        self._ready[turn] = min(self._ready[turn], self._ended_at - completion.seconds)
        self.moved_bytes += completion.moved_bytes
        if completion.outcome is Outcome.SUCCESS:
            self.on_arrived(_told(part, completion))
        elif completion.outcome is Outcome.FAILURE:
            self._fail(f"transfer failed: {completion.reason}")
        # A block is counted with its last layers, so that each counts once.
        self._telemetry.transferred(completion, len(part.pairs) if part.layers.stop == self._layout.layers else 0)

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


def _told(part: Part, completion: Completion) -> WrittenLayers:
    checksums = completion.checksums.astype("<u8").tobytes()
    return WrittenLayers(part.layers.start, part.layers.stop, part.first, len(part.pairs), checksums)
