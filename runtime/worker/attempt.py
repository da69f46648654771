"""One prompt given to a prefill worker: what is known of its blocks, and who still may write them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from dynamoc.runtime.engines.protocol import RequestKey, Reserved
from dynamoc.runtime.plane.messages import PrefillAborted, PrefillDone, PrefillFailed
from dynamoc.runtime.worker.arrivals import Arrivals
from dynamoc.runtime.worker.prefill_peer import PrefillPeer
from dynamoc.runtime.worker.requests import Request

Answer = PrefillDone | PrefillFailed | PrefillAborted


@dataclass(slots=True, eq=False)
class Attempt:
    """What was asked under one `generation`. `answer` is a text when there is no answer: why."""

    request: Request
    key: RequestKey
    generation: int
    peer: PrefillPeer
    reserved: asyncio.Future[Reserved | None] = field(default_factory=asyncio.Future)
    loaded: asyncio.Future[int] = field(default_factory=asyncio.Future)
    """How many of the blocks that were loading this worker's own tiers brought."""
    answer: asyncio.Future[Answer | str] = field(default_factory=asyncio.Future)
    asked_at: float = 0.0
    answered_at: float = 0.0
    arrivals: Arrivals | None = None
    """What was written; None before anything was asked for."""
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the prefill worker's process writes nothing for this attempt any more."""
    incarnation: int = -1
    """Which life of the prefill worker was asked; -1 before."""
    writer: bytes = b""
    dropped: bool = False
    """The frontend does not want it any more."""

    def again(self, generation: int) -> Attempt:
        """One for the same reservation, of which the tiers brought less than was hoped."""
        return Attempt(self.request, self.key, generation, self.peer, self.reserved, self.loaded)

    def drop(self) -> None:
        """Nobody waits for the tokens; the blocks still have to be accounted for."""
        self.dropped = True
        if not self.reserved.done():
            self.reserved.set_result(None)
        if not self.loaded.done():
            self.loaded.set_result(0)
        self.lost("the request was cancelled")

    def lost(self, reason: str) -> None:
        """Do not wait for an answer any longer."""
        if not self.answer.done():
            self.answer.set_result(reason)
