"""One hot endpoint: a request is read, run as one generation per choice, and answered as it goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge
from starlette.types import Receive, Scope, Send

from dynamoc.runtime.frontend.answers import DONE, Answer, Finished, Head, Usage, error_event
from dynamoc.runtime.frontend.choice import Choice, Entry, Piece
from dynamoc.runtime.frontend.detokenize import Detokenizer
from dynamoc.runtime.frontend.errors import ApiError, internal, late, overloaded, unavailable
from dynamoc.runtime.frontend.generation import Backend, Generation
from dynamoc.runtime.frontend.http import DisconnectedError, EventStream, read_body, send_whole, until_disconnect
from dynamoc.runtime.frontend.instruments import Instruments
from dynamoc.runtime.frontend.job import Job
from dynamoc.runtime.frontend.tokenizer import Tokenizer
from dynamoc.runtime.manifest import FrontendSettings
from dynamoc.runtime.plane.messages import Sampling

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
                run = _Run(self, await self.read(body), began)
                if run.job.stream:
                    await run.stream(stream)
                else:
                    await send_whole(send, 200, await run.whole(), headers)

    def _explain(self, error: Exception, request_id: bytes) -> ApiError:
        if isinstance(error, TimeoutError):
            error = late(self.settings.request_timeout_s)
        if not isinstance(error, ApiError):
            log.error("request %s failed", request_id.decode(), exc_info=error)
            return internal(f"internal error; the server's log tells more about request {request_id.decode()}")
        if error.status >= 500:
            log.warning("request %s: %d %s", request_id.decode(), error.status, error.message)
        return error


class _Run:
    """The generations of one request, and what they sum up to."""

    def __init__(self, endpoint: Endpoint, job: Job, began: float) -> None:
        self.job = job
        self._endpoint = endpoint
        self._began = began
        self._deadline = (
            asyncio.get_running_loop().time() + endpoint.settings.request_timeout_s - (time.monotonic() - began)
        )
        head = Head(endpoint.id_prefix + secrets.token_hex(12), int(time.time()), endpoint.model, job.include_usage)
        self._answer = endpoint.spell(head, job)
        self._choices: list[Choice] = []
        self._unfinished = 0
        self._tail = b""
        endpoint.instruments.prompt_tokens.inc(sum(map(len, job.prompts)))

    async def whole(self) -> bytes:
        """The body, when everything is there."""
        finished: list[Finished] = []

        async def collect(index: int, piece: Piece) -> None:
            texts[index].append(piece.text)
            entries[index] += piece.entries
            if piece.finish is not None:
                finished.append(Finished(index, "".join(texts[index]), entries[index], piece.finish))

        count = len(self.job.prompts) * self.job.n
        texts: list[list[str]] = [[] for _ in range(count)]
        entries: list[list[Entry]] = [[] for _ in range(count)]
        await self._generate_all(collect)
        finished.sort(key=lambda choice: choice.index)
        return self._answer.whole(finished, self._usage())

    async def stream(self, stream: EventStream) -> None:
        """Events as the tokens come."""
        opened: set[int] = set()
        answer = self._answer

        async def write(index: int, piece: Piece) -> None:
            events = b""
            if index not in opened:
                opened.add(index)
                events = answer.opening(index)
            if piece.text or piece.entries:
                events += answer.delta(index, piece.text, piece.entries)
            if piece.finish is not None:
                events += answer.closing(index, piece.finish)
                self._unfinished -= 1
                if not self._unfinished:  # the very last choice: one write with what ends the stream
                    self._tail = events
                    return
            if events:
                await stream.write(events)

        await self._generate_all(write)
        usage = answer.usage(self._usage()) if self.job.include_usage else b""
        await stream.write(self._tail + usage + DONE, last=True)

    async def _generate_all(self, show: Callable[[int, Piece], Awaitable[None]]) -> None:
        wanted = self.job.choices()
        self._unfinished = len(wanted)
        await _all_or_error(
            [self._generate(index, prompt, sampling, show) for index, (prompt, sampling) in enumerate(wanted)]
        )

    async def _generate(
        self,
        index: int,
        prompt: Sequence[int],
        sampling: Sampling,
        show: Callable[[int, Piece], Awaitable[None]],
    ) -> None:
        instruments = self._endpoint.instruments
        choice = Choice(Detokenizer(self._endpoint.tokenizer, prompt), self.job.stops, sampling.stop_token_ids)
        self._choices.append(choice)
        generation = Generation(self._endpoint.backend, prompt, sampling, self._deadline)
        before = 0.0
        try:
            while True:
                piece = choice.push(await generation.next())
                now = time.monotonic()
                if before:
                    instruments.gap_seconds.observe(now - before)
                else:
                    instruments.first_token_seconds.observe(now - self._began)
                before = now
                await show(index, piece)
                if piece.finish is not None:
                    return
        finally:
            generation.close()
            instruments.output_tokens.inc(choice.completion_tokens)
            instruments.cached_tokens.inc(choice.cached_tokens)

    def _usage(self) -> Usage:
        # Choices of one prompt share it: it is counted once, and so is what of it was cached.
        return Usage(
            sum(map(len, self.job.prompts)),
            sum(choice.completion_tokens for choice in self._choices),
            sum(choice.cached_tokens for choice in self._choices[:: self.job.n]),
        )


async def _all_or_error(runs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first error ends the others and is raised."""
    if len(runs) == 1:
        await runs[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for run in runs:
                group.create_task(run)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _say(failure: ApiError, send: Send, stream: EventStream, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Tell the client, unless it does not listen."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_LIMIT_S):
            if stream.started:
                await stream.write(error_event(failure), last=True)
            else:
                await send_whole(send, failure.status, failure.body(), [*headers, *failure.headers()])


def _request_id(scope: Scope) -> bytes:
    """The client's own, if it is one we can send back, else a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()
