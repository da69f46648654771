"""One hot endpoint: a request is read, run as one generation per choice, and answered as it goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge
from starlette.types import Receive, Scope, Send

from dynamoc.runtime.frontend.answers import Answer, Head, error_event
from dynamoc.runtime.frontend.errors import ApiError, internal, late, overloaded, unavailable
from dynamoc.runtime.frontend.generation import Backend
from dynamoc.runtime.frontend.http import DisconnectedError, EventStream, read_body, send_whole, until_disconnect
from dynamoc.runtime.frontend.instruments import Instruments
from dynamoc.runtime.frontend.job import Job
from dynamoc.runtime.frontend.run import Run
from dynamoc.runtime.frontend.tokenizer import Tokenizer
from dynamoc.runtime.manifest import FrontendSettings

CLIENT_LEFT = 499
FAREWELL_LIMIT_S = 1.0

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

log = logging.getLogger("dynamoc.frontend")


class Gate:
    """The requests that run, over all endpoints: at most `limit`."""

    def __init__(self, limit: int, running: Gauge) -> None:
        self.stopped = False
        self._limit = limit
        self._running = running
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Count the calling task in; ApiError if that is one too many."""
        if len(self._tasks) >= self._limit:
            raise overloaded(f"{self._limit} requests are running already")
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._running.set(len(self._tasks))
        try:
            yield
        except asyncio.CancelledError:
            if not self.stopped:
                raise
            task.uncancel()
            raise unavailable("the frontend is stopping", "stopping") from None
        finally:
            self._tasks.remove(task)
            self._running.set(len(self._tasks))

    def stop(self) -> None:
        """End what still runs, with an error that its client gets."""
        self.stopped = True
        for task in self._tasks:
            task.cancel()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`read` makes the job of a body, `spell` the answer's form. An instance is the ASGI app of `path`."""

    path: str
    id_prefix: str
    read: Callable[[bytes], Awaitable[Job]]
    spell: Callable[[Head, Job], Answer]
    model: str
    tokenizer: Tokenizer
    backend: Backend
    settings: FrontendSettings
    instruments: Instruments
    gate: Gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        began = time.monotonic()
        request_id = _request_id(scope)
        headers = [(b"x-request-id", request_id)]
        stream = EventStream(send, headers)
        status = 200
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                await self._admit(scope, receive, send, stream, headers, began)
        except DisconnectedError:
            status = CLIENT_LEFT
            self.instruments.disconnects.inc()
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets an answer and the log the rest
            failure = self._explain(error, request_id)
            status = failure.status
            await _say(failure, send, stream, headers)
        finally:
            self.instruments.requests.labels(self.path, str(status)).inc()
            self.instruments.request_seconds.observe(time.monotonic() - began)

    async def _admit(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        stream: EventStream,
        headers: list[tuple[bytes, bytes]],
        began: float,
    ) -> None:
        if scope["method"] != "POST":
            headers.append((b"allow", b"POST"))
            raise ApiError(405, f"{self.path} takes POST, not {scope['method']}")
        with self.gate.passing():
            body = await read_body(scope, receive, self.settings.max_body_bytes)
            async with until_disconnect(receive):
                job = await self.read(body)
                run = Run(
                    job, self._spell(job), self.tokenizer, self.backend, self.instruments,
                    began=began, deadline=began + self.settings.request_timeout_s,
                )  # fmt: skip
                if job.stream:
                    await run.stream(stream)
                else:
                    await send_whole(send, 200, await run.whole(), headers)

    def _spell(self, job: Job) -> Answer:
        usage = job.stream_options.include_usage
        head = Head(self.id_prefix + secrets.token_hex(12), int(time.time()), self.model, usage)
        return self.spell(head, job)

    def _explain(self, error: Exception, request_id: bytes) -> ApiError:
        if isinstance(error, TimeoutError):
            error = late(self.settings.request_timeout_s)
        if not isinstance(error, ApiError):
            log.error("request %s failed", request_id.decode(), exc_info=error)
            return internal(f"internal error; the server's log tells more about request {request_id.decode()}")
        if error.status >= 500:
            log.warning("request %s: %d %s", request_id.decode(), error.status, error.message)
        return error


async def _say(failure: ApiError, send: Send, stream: EventStream, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Tell the client, unless it does not listen."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_LIMIT_S):
            if stream.started:
                await stream.end(error_event(failure))
            else:
                await send_whole(send, failure.status, failure.body(), [*headers, *failure.headers()])


def _request_id(scope: Scope) -> bytes:
    """The client's own, if it is one we can send back, else a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()
