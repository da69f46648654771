"""What a kept pool asks of its worker: to say who may write there, and to wait for those whom an earlier life asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from dynamoc.runtime.engines.protocol import Keeping
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.transports.protocol import Transport

LOOK_S = 0.25
OUTCOMES = ("verified", "wrong", "orphaned", "torn")

log = logging.getLogger(__name__)


class Inheritance:
    """Blocks that an earlier life lent are back in use once each writer it knew has ended or attached anew.

    A prefill worker attaches only when all that it was asked for before has ended; until then, and without an end of
    its process, it may hold a copy into the pool that it has begun.
    """

    def __init__(
        self, keeping: Keeping, transport: Transport | None, metrics: Metrics, on_unkept: Callable[[], None]
    ) -> None:
        self._keeping = keeping
        self._transport = transport
        self._metrics = metrics
        self._on_unkept = on_unkept
        self._admitted: set[bytes] = set()
        self._awaited = set(keeping.writers)
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Count what was found, and begin to look after the rest."""
        recovery, counter = self._keeping.recovery, self._metrics.counter
        for outcome in OUTCOMES:
            counter("dynamoc_kv_recovered_blocks_total").labels(outcome).inc(getattr(recovery, outcome))
        if recovery.lost_because:
            counter("dynamoc_kv_abandoned_pools_total").labels(recovery.lost_because).inc()
        self._metrics.gauge("dynamoc_kv_pool_kept").set(1)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def attached(self, writer: bytes) -> None:
        """A prefill worker took my pool, and is asked for nothing before this returns. Empty: revoking is enough."""
        if not writer:
            return
        for other in tuple(self._admitted - {writer}):
            if self._is_gone(other):
                self._admitted.remove(other)
                self._keeping.dismiss(other)
        if writer not in self._admitted:
            self._admitted.add(writer)
            self._keeping.admit(writer)
        self._quiet({writer})

    async def close(self) -> None:
        """Look after nothing any more."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def _watch(self) -> None:
        is_kept = True
        while is_kept or self._awaited:
            await asyncio.sleep(LOOK_S)
            self._quiet({writer for writer in self._awaited if self._is_gone(writer)})
            if is_kept and not self._keeping.is_kept():
                is_kept = False
                self._metrics.gauge("dynamoc_kv_pool_kept").set(0)
                log.error("the memory service is gone: nobody keeps this KV pool beyond this process any more")
                self._on_unkept()

    def _quiet(self, writers: set[bytes]) -> None:
        """These write nothing of what an earlier life asked for."""
        if not self._awaited & writers:
            return
        for writer in (self._awaited & writers) - self._admitted:
            self._keeping.dismiss(writer)
        self._awaited -= writers
        if not self._awaited:
            log.info("nobody writes to blocks that an earlier life lent: they are in use again")
            self._keeping.readmit()

    def _is_gone(self, writer: bytes) -> bool:
        return self._transport is not None and self._transport.writer_gone(writer)
