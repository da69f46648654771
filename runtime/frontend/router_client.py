"""The line to the router: dialled again whenever it is lost, shared by all requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from dynamoc.runtime.plane.connection import Connection, Identity, PlaneError, dial
from dynamoc.runtime.plane.messages import (
    Message,
    PromptComputed,
    RequestEnded,
    Routed,
    RouteRefused,
    RouteRequest,
    WorkerInfo,
    Workers,
    WorkersWanted,
)

FIRST_BACKOFF_S = 0.05
LAST_BACKOFF_S = 1.0

log = logging.getLogger("dynamoc.frontend")


class RouterLostError(Exception):
    """There is no router to ask."""


class RefusedError(Exception):
    """The router has no worker for this request; `code` is `RouteRefused`'s."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class RouterClient:
    """One connection at a time. Requests that find none wait `wait_s` for the next."""

    def __init__(self, host: str, port: int, identity: Identity, key: bytes, wait_s: float) -> None:
        self._address = (host, port)
        self._identity = identity
        self._key = key
        self._wait_s = wait_s
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._routes: dict[int, asyncio.Future[Routed]] = {}
        self._askers: list[asyncio.Future[tuple[WorkerInfo, ...]]] = []

    async def keep_connected(self) -> None:
        """Dial, and dial again when the connection is lost, until cancelled."""
        backoff = FIRST_BACKOFF_S
        try:
            while True:
                try:
                    await dial(*self._address, self._identity, self._key, self)
                except PlaneError as error:
                    if backoff == FIRST_BACKOFF_S:
                        log.warning("router: %s; trying again", error)
                    await asyncio.sleep(backoff)
                    backoff = min(2 * backoff, LAST_BACKOFF_S)
                else:
                    backoff = FIRST_BACKOFF_S
                    await self._down.wait()
        finally:
            if self._connection is not None:
                self._connection.close("the frontend ends")

    async def wait_connected(self) -> None:
        """Until there is a connection; without a limit, for the start."""
        await self._up.wait()

    async def route(self, request: RouteRequest) -> Routed:
        """Where the request should go. RefusedError, or RouterLostError when no router comes back in time."""
        while True:
            connection = await self._connected()
            answer: asyncio.Future[Routed] = asyncio.get_running_loop().create_future()
            self._routes[request.request_id] = answer
            try:
                connection.send(request)
                return await answer
            except PlaneError as error:
                log.info("request %d is routed again: %s", request.request_id, error)
            finally:
                self._routes.pop(request.request_id, None)

    def tell(self, message: PromptComputed | RequestEnded) -> None:
        """Pass on how a request fares. Without a router nobody needs to know: the next one starts from nothing."""
        if self._connection is not None:
            with contextlib.suppress(PlaneError):
                self._connection.send(message)

    async def workers(self, timeout_s: float) -> tuple[WorkerInfo, ...]:
        """Who is registered. RouterLostError if there is no answer in time."""
        if self._connection is None:
            raise RouterLostError("not connected to the router")
        answer: asyncio.Future[tuple[WorkerInfo, ...]] = asyncio.get_running_loop().create_future()
        self._askers.append(answer)
        try:
            async with asyncio.timeout(timeout_s):
                self._connection.send(WorkersWanted())
                return await answer
        except (TimeoutError, PlaneError) as error:
            raise RouterLostError(f"the router does not answer: {error}") from error
        finally:
            if answer in self._askers:
                self._askers.remove(answer)

    # ---- the plane's Handler ---------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Let waiting requests go on."""
        log.info("connected to router %s@%d", connection.peer.name, connection.peer.incarnation)
        self._connection = connection
        self._down.clear()
        self._up.set()

    def received(self, connection: Connection, message: Message) -> None:
        """An answer to one of our questions."""
        match message:
            case Routed(request_id=request_id):
                self._answer(request_id, message)
            case RouteRefused(request_id=request_id, code=code, reason=reason):
                self._answer(request_id, RefusedError(code, reason))
            case Workers(workers=workers):
                for asker in self._askers:
                    if not asker.done():
                        asker.set_result(workers)
                self._askers.clear()
            case _:
                connection.abort(f"unexpected {type(message).__name__} from the router")

    def closed(self, connection: Connection, reason: str) -> None:
        """Requests that wait for an answer ask the next router."""
        log.warning("router %s is lost: %s", connection.peer.name, reason)
        self._connection = None
        self._up.clear()
        self._down.set()
        futures: list[asyncio.Future[Any]] = [*self._routes.values(), *self._askers]
        for future in futures:
            if not future.done():
                future.set_exception(PlaneError(reason))

    # ---- inside ---------------------------------------------------------------------------------------

    async def _connected(self) -> Connection:
        if self._connection is None:
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._up.wait()
            except TimeoutError:
                raise RouterLostError(f"no router for {self._wait_s:g} s") from None
        assert self._connection is not None
        return self._connection

    def _answer(self, request_id: int, answer: Routed | RefusedError) -> None:
        future = self._routes.get(request_id)
        if future is None or future.done():  # the request ended while it was being placed
            return
        if isinstance(answer, RefusedError):
            future.set_exception(answer)
        else:
            future.set_result(answer)
