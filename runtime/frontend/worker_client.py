"""The lines to workers: one connection per worker incarnation, opened on first use, shared by all requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from dynamoc.runtime.plane.connection import Connection, Identity, PlaneError, dial
from dynamoc.runtime.plane.messages import Cancel, Generate, Message, StepOutputs, TokenOutput, WorkerAddress

DIAL_LIMIT_S = 2.0

log = logging.getLogger("dynamoc.frontend")


class WorkerLostError(Exception):
    """The worker cannot be reached, or went away with the request."""


class SlowClientError(Exception):
    """The client reads so slowly that its answer piles up here."""


class Inbox:
    """Outputs of one request on their way from the plane to the task that answers; at most `capacity` tokens."""

    __slots__ = ("_capacity", "_error", "_outputs", "_unread", "_waiter")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._outputs: list[TokenOutput] = []
        self._unread = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, output: TokenOutput) -> bool:
        """Add an output; False if there is no room and the request should be cancelled."""
        if self._error is not None:
            return True
        self._unread += len(output.tokens)
        if self._unread > self._capacity:
            self.fail(SlowClientError(f"more than {self._capacity} tokens wait for the client to read"))
            return False
        self._outputs.append(output)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return True

    def fail(self, error: Exception) -> None:
        """No more outputs come. What is here can still be taken."""
        self._error = self._error or error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> list[TokenOutput]:
        """All outputs that came since the last time; if there are none, the error, if there is one."""
        if not self._outputs and self._error is not None:
            raise self._error
        outputs, self._outputs = self._outputs, []
        self._unread = 0
        return outputs

    def arrival(self) -> asyncio.Future[None]:
        """Done with the next output or error; asked for when there was nothing to take."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class WorkerLink:
    """One open connection and the requests on it."""

    def __init__(self, address: WorkerAddress) -> None:
        self.address = address
        self._connection: Connection | None = None
        self._inboxes: dict[int, Inbox] = {}

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._connection is not None and self._connection.is_open

    def submit(self, request: Generate, capacity: int) -> Inbox:
        """Start a request; WorkerLostError if the connection is gone."""
        if self._connection is None:
            raise WorkerLostError(f"connection to {self.address.name} is closed")
        inbox = Inbox(capacity)
        try:
            self._connection.send(request)
        except PlaneError as error:
            raise WorkerLostError(str(error)) from error
        self._inboxes[request.request_id] = inbox
        return inbox

    def finish(self, request_id: int, *, cancel: bool) -> None:
        """Forget a request, and with `cancel` have the worker drop it."""
        self._inboxes.pop(request_id, None)
        if cancel and self._connection is not None:
            with contextlib.suppress(PlaneError):  # a worker that is gone computes nothing any more
                self._connection.send(Cancel(request_id))

    def close(self, reason: str) -> None:
        """Close the connection; its requests get WorkerLostError."""
        if self._connection is not None:
            self._connection.close(reason)

    # ---- the plane's Handler ---------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Accept the worker if it is the life of it that was meant."""
        if (connection.peer.name, connection.peer.incarnation) != (self.address.name, self.address.incarnation):
            connection.abort(f"{connection.peer.name}@{connection.peer.incarnation} answers there now")
            return
        self._connection = connection

    def received(self, connection: Connection, message: Message) -> None:
        """Hand each output to its request; those of requests that are over are dropped."""
        if not isinstance(message, StepOutputs):
            connection.abort(f"unexpected {type(message).__name__} from a worker")
            return
        inboxes = self._inboxes
        for output in message.outputs:
            inbox = inboxes.get(output.request_id)
            if inbox is not None and not inbox.put(output):
                self.finish(output.request_id, cancel=True)

    def closed(self, connection: Connection, reason: str) -> None:
        """Tell the requests."""
        log.info("worker %s@%d is lost: %s", connection.peer.name, connection.peer.incarnation, reason)
        self._connection = None
        for inbox in self._inboxes.values():
            inbox.fail(WorkerLostError(reason))
        self._inboxes.clear()


class WorkerPool:
    """All links of this frontend."""

    def __init__(self, identity: Identity, key: bytes) -> None:
        self._identity = identity
        self._key = key
        self._links: dict[WorkerAddress, asyncio.Task[WorkerLink]] = {}

    async def open(self, address: WorkerAddress) -> WorkerLink:
        """The link to that life of that worker; WorkerLostError if it cannot be had."""
        dialling = self._links.get(address)
        if dialling is None or (dialling.done() and not _is_usable(dialling)):
            dialling = asyncio.create_task(self._dial(address))
            self._links = {known: task for known, task in self._links.items() if not task.done() or _is_usable(task)}
            self._links[address] = dialling
        # Shielded: others may wait for the same connection when this request is cancelled.
        return await asyncio.shield(dialling)

    async def close(self) -> None:
        """Close every connection."""
        for task in self._links.values():
            if not task.cancel() and _is_usable(task):
                task.result().close("the frontend ends")
        await asyncio.gather(*self._links.values(), return_exceptions=True)

    async def _dial(self, address: WorkerAddress) -> WorkerLink:
        link = WorkerLink(address)
        try:
            await dial(address.host, address.port, self._identity, self._key, link, DIAL_LIMIT_S)
        except PlaneError as error:
            raise WorkerLostError(f"{address.name}: {error}") from error
        if not link.is_open:
            raise WorkerLostError(f"{address.name}@{address.incarnation} is gone")
        log.info("connected to worker %s@%d", address.name, address.incarnation)
        return link


def _is_usable(task: asyncio.Task[WorkerLink]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None and task.result().is_open
