"""The worker's line to the router: register, say what is resident, then every change and the load."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from dynamoc.runtime.engines.generator import Generator
from dynamoc.runtime.engines.protocol import EngineStats
from dynamoc.runtime.plane.connection import Connection
from dynamoc.runtime.plane.messages import (
    Draining,
    KvEvent,
    KvEvents,
    LoadReport,
    Message,
    Registered,
    RegisterWorker,
    WorkerInfo,
)
from dynamoc.runtime.process import Context
from dynamoc.runtime.worker.link import Link

LOAD_INTERVAL_S = 0.1

log = logging.getLogger(__name__)


class RouterLink:
    """Everything the router knows of this worker came through here."""

    def __init__(
        self,
        context: Context,
        router: str,
        info: WorkerInfo,
        engine: Generator,
        on_answer: Callable[[Registered], None],
    ) -> None:
        self.is_registered = False
        self._link = Link(context, router, self)
        self._info = info
        self._engine = engine
        self._on_answer = on_answer
        self._next_event = 0
        self._is_draining = False
        self._load = LoadReport(0, 0, 0, 0)
        self._sent: LoadReport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to dial."""
        self._link.start()

    def events(self, events: Sequence[KvEvent]) -> None:
        """What changed in the cache. Without a router nothing is lost: it is told everything when it is back."""
        if events and self._link.connection is not None:
            self._link.send(KvEvents(self._next_event, tuple(events)))
            self._next_event += len(events)

    def load(self, stats: EngineStats) -> None:
        """The load now; sent if it changed, not more often than every `LOAD_INTERVAL_S`."""
        self._load = LoadReport(
            stats.running, stats.waiting, stats.active_blocks, stats.cached_blocks, stats.tier_credits
        )
        if self._timer is None:
            self._report_load()

    def drain(self) -> None:
        """Ask for nothing new, now and after every reconnect."""
        self._is_draining = True
        self._link.send(Draining())

    async def close(self) -> None:
        """Hang up."""
        if self._timer is not None:
            self._timer.cancel()
        await self._link.close()

    # ---- Handler ------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Register on every new connection: the router may be another one than before."""
        del connection
        self._link.send(RegisterWorker(self._info))
        self._next_event, self._sent = 0, None
        self.events(self._engine.resident())
        if self._is_draining:
            self._link.send(Draining())

    def received(self, connection: Connection, message: Message) -> None:
        """The router only ever answers a registration."""
        if not isinstance(message, Registered):
            connection.abort(f"unexpected {type(message).__name__} from the router")
            return
        self.is_registered = message.accepted
        self._on_answer(message)
        if message.accepted:
            self._report_load()

    def closed(self, connection: Connection, reason: str) -> None:
        """Until the link is back, the router takes this worker for dead."""
        del connection, reason
        self.is_registered = False

    def _report_load(self) -> None:
        self._timer = None
        if self.is_registered and self._load != self._sent and self._link.send(self._load):
            self._sent = self._load
            self._timer = asyncio.get_running_loop().call_later(LOAD_INTERVAL_S, self._report_load)
