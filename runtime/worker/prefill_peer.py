"""A decode worker's view of one prefill worker: the connection, whether my pool is attached there, how fast it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from dynamoc.runtime.kv.tiers.choice import PrefillSpeed
from dynamoc.runtime.plane.connection import Connection
from dynamoc.runtime.plane.messages import AttachPool, Message, PoolAttached
from dynamoc.runtime.process import Context
from dynamoc.runtime.worker.link import Link

SILENT_S = 3.0
"""Of a worker that missed so many heartbeats nothing is expected for now; a worker that is only slow never does."""
LOOK_S = 0.25

log = logging.getLogger(__name__)


class Attempts(Protocol):
    """Who wants to know what becomes of a prefill worker."""

    def attached(self, peer: PrefillPeer) -> None:
        """It took the offer."""
        ...

    def lost(self, peer: PrefillPeer, reason: str) -> None:
        """The connection ended, or there is no life in it."""
        ...

    def answered(self, message: Message) -> bool:
        """It said something about a prefill; False if the message is nothing of the kind."""
        ...


class PrefillPeer:
    """Offers my pool on every new connection, and tells `attempts` and `on_change` what comes of it."""

    def __init__(
        self, context: Context, name: str, offer: AttachPool, attempts: Attempts, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.incarnation = -1
        self.writer = b""
        """Which process writes there: for the transport."""
        self.refusal = ""
        """Why the offer was refused; empty if it was not."""
        self.speed = PrefillSpeed()
        """From asking for a prompt until it is written."""
        self.is_silent = False
        """Whether it seems to be held up, though its connection is open."""
        self._link = Link(context, name, self)
        self._offer = offer
        self._attempts = attempts
        self._on_change = on_change
        self._attached = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_attached(self) -> bool:
        """Whether prompts can be sent there."""
        return self._attached.is_set()

    def start(self) -> None:
        """Begin to dial."""
        self._link.start()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    def send(self, message: Message) -> bool:
        """Send if there is a connection."""
        return self._link.send(message)

    async def wait_attached(self, limit_s: float) -> bool:
        """Wait a little for a prefill worker that is just starting, or coming back."""
        if not self.refusal:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._attached.wait(), limit_s)
        return self.is_attached

    async def close(self) -> None:
        """Hang up."""
        if self._listening is not None:
            self._listening.cancel()
        await self._link.close()

    # ---- Handler ------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Offer the pool."""
        self.incarnation = connection.peer.incarnation
        self._link.send(self._offer)

    def received(self, connection: Connection, message: Message) -> None:
        """The answer to the offer, or to a prefill."""
        if isinstance(message, PoolAttached):
            self._answered(message)
        elif not self._attempts.answered(message):
            connection.abort(f"unexpected {type(message).__name__} from a prefill worker")

    def closed(self, connection: Connection, reason: str) -> None:
        """Nothing is heard of what was asked there."""
        del connection
        self._attached.clear()
        self._attempts.lost(self, reason)
        self._on_change()

    async def _listen(self) -> None:
        """Give up what was asked of a worker that is silent; the plane takes it for dead only much later."""
        silent_s = heard_at = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            connection, before = self._link.connection, heard_at
            heard_at = 0.0 if connection is None else connection.heard_at
            # Counted by looks: a pause of this process is one, however long, and what was said meanwhile is read next.
            silent_s = silent_s + LOOK_S if connection is not None and heard_at == before else 0.0
            self.is_silent = silent_s >= SILENT_S
            if self.is_silent:
                self._attempts.lost(self, f"nothing was heard of it for {SILENT_S:g} s")

    def _answered(self, message: PoolAttached) -> None:
        self.refusal, self.writer = "", message.writer
        if not message.accepted:
            self.refusal = message.reason or "no reason given"
            log.error("%s refused my pool: %s", self.name, self.refusal)
        elif message.transport != self._offer.transport:
            self.refusal = f"it would use transport `{message.transport}`, not `{self._offer.transport}`"
            log.error("%s: %s", self.name, self.refusal)
        else:
            self._attached.set()
            self._attempts.attached(self)
            self._on_change()
