"""A connection to one process of the plan, dialled again whenever it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from dynamoc.runtime.plane.connection import Connection, Handler, PlaneError, dial
from dynamoc.runtime.plane.messages import Message
from dynamoc.runtime.process import Context

FIRST_BACKOFF_S = 0.05
LAST_BACKOFF_S = 1.0

log = logging.getLogger(__name__)


class Link:
    """Keeps one connection to `name`; `handler` hears of every new one, its messages and its end."""

    def __init__(self, context: Context, name: str, handler: Handler) -> None:
        self.name = name
        self.connection: Connection | None = None
        self._context = context
        self._handler = handler
        self._lost = asyncio.Event()
        self._dialling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to dial."""
        self._dialling = asyncio.get_running_loop().create_task(self._keep())

    def send(self, message: Message) -> bool:
        """Send if there is a connection; False means that its end was, or will be, reported."""
        if self.connection is None:
            return False
        try:
            self.connection.send(message)
        except PlaneError:
            return False
        return True

    async def close(self) -> None:
        """Stop dialling and close what is open."""
        if self._dialling is not None:
            self._dialling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._dialling
        if self.connection is not None:
            self.connection.close()

    def opened(self, connection: Connection) -> None:
        """Accept the connection if the right process answered."""
        if connection.peer.name != self.name:
            connection.abort(f"`{connection.peer.name}` answers where `{self.name}` should")
            return
        self.connection = connection
        self._handler.opened(connection)

    def received(self, connection: Connection, message: Message) -> None:
        """Pass a message on."""
        self._handler.received(connection, message)

    def closed(self, connection: Connection, reason: str) -> None:
        """Pass the end on and dial again."""
        if self.connection is connection:
            log.warning("lost %s: %s", self.name, reason)
            self.connection = None
            self._handler.closed(connection, reason)
        self._lost.set()

    async def _keep(self) -> None:
        backoff, complained = FIRST_BACKOFF_S, False
        host, port = self._context.endpoint(self.name, "plane")
        while True:
            self._lost.clear()
            try:
                await dial(host, port, self._context.identity, self._context.key, self)
            except PlaneError as error:
                log.log(logging.DEBUG if complained else logging.INFO, "waiting for %s: %s", self.name, error)
                complained = True
            else:
                await self._lost.wait()
                backoff, complained = FIRST_BACKOFF_S, False
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LAST_BACKOFF_S)
