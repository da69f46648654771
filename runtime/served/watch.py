"""An engine's health and counters, looked at now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from dynamoc.runtime.engines.protocol import EngineStats
from dynamoc.runtime.served.api import Counted
from dynamoc.runtime.served.http import Server, ServerError
from dynamoc.runtime.served.samples import sums_of

BUSY_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 5.0
"""Servers write a line of log for every look."""
LIMIT_S = 10.0
SICK_LIMIT_S = 30.0
"""An engine that gives no sign of health for so long has failed: it may be slow, but not that slow."""

Failed = Callable[[str], None]

log = logging.getLogger(__name__)


class Watch:
    """`counted` None: the engine has no counters, and the worker's own requests are its load."""

    def __init__(self, counted: Counted | None, server: Server, blocks: int) -> None:
        self._counted = counted
        self._server = server
        self._total = blocks
        self._stats = EngineStats(total_blocks=blocks)
        self._complained = False

    def stats(self, requests: int, cached: int) -> EngineStats:
        """As last counted; `requests` are those of this worker, `cached` the blocks it knows to be resident."""
        last = self._stats
        running = last.running if self._counted is not None else requests
        return EngineStats(
            running=running,
            waiting=last.waiting,
            active_blocks=last.active_blocks,
            cached_blocks=max(0, min(cached, self._total) - last.active_blocks),
            total_blocks=self._total,
            prompt_tokens=last.prompt_tokens,
            cached_tokens=last.cached_tokens,
            generated_tokens=last.generated_tokens,
            preemptions=last.preemptions,
        )

    async def run(self, requests: Callable[[], int], on_change: Callable[[], None], on_failure: Failed) -> None:
        """Until cancelled, or until the engine has failed. `requests` are those of this worker."""
        loop = asyncio.get_running_loop()
        well = loop.time()
        while True:
            try:
                await self._server.get("/health", LIMIT_S)
                well = loop.time()
            except ServerError as error:
                if loop.time() - well > SICK_LIMIT_S:
                    on_failure(f"the engine is not healthy for {SICK_LIMIT_S:g} s: {error}")
                    return
            if await self._count():
                on_change()
            busy = requests() or self._stats.running or self._stats.waiting
            await asyncio.sleep(BUSY_INTERVAL_S if busy else IDLE_INTERVAL_S)

    async def _count(self) -> bool:
        """Take over the engine's counters; whether they changed."""
        if self._counted is None:
            return False
        names = {*self._counted.fields.values(), self._counted.usage}
        try:
            sums = sums_of((await self._server.get("/metrics", LIMIT_S)).decode(errors="replace"), names)
        except (ServerError, ValueError) as error:
            if not self._complained:
                log.warning("the engine's counters cannot be read: %s", error)
            self._complained = True
            return False
        fields: dict[str, Any] = {field: int(sums.get(name, 0)) for field, name in self._counted.fields.items()}
        used = min(1.0, sums.get(self._counted.usage, 0.0))
        stats = EngineStats(active_blocks=round(used * self._total), total_blocks=self._total, **fields)
        changed, self._stats = stats != self._stats, stats
        return changed
