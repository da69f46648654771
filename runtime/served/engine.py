"""What answers requests by asking an engine's own server, one HTTP request each, one report per turn of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import msgspec

from dynamoc.runtime.engines.generator import Capacity
from dynamoc.runtime.engines.protocol import EngineRequest, RequestKey, StepReport, Written
from dynamoc.runtime.plane.messages import KvEvent, TokenOutput
from dynamoc.runtime.process import Endpoint
from dynamoc.runtime.served.api import Answer, Api, Body
from dynamoc.runtime.served.blocks import Blocks
from dynamoc.runtime.served.events import Subscriber
from dynamoc.runtime.served.http import Server, ServerError
from dynamoc.runtime.served.watch import Watch

ROOM_BITS = 62

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Another worker's engine, which can compute a prompt for ours."""

    endpoint: Endpoint
    server: Server

    async def ask(self, api: Api, body: Body, room: int) -> Mapping[str, object]:
        """Compute the prompt of a request; ServerError."""
        return await self.server.post(api.path, api.handoff.prefill(body, self.endpoint, room))


class ServedEngine:
    """A `Generator` in front of a server that is healthy. All of it on the event loop."""

    def __init__(
        self,
        name: str,
        api: Api,
        server: Server,
        model: str,
        capacity: Capacity,
        *,
        sources: Mapping[str, Endpoint],
        subscriber: Subscriber | None,
    ) -> None:
        """`model` is what the server calls it; `sources` are the servers of prefill workers, by process name."""
        self.name = name
        self._api = api
        self._server = server
        self._model = model
        self._sources = {
            name: Source(endpoint, Server(endpoint.host, endpoint.ports["http"])) for name, endpoint in sources.items()
        }
        self._subscriber = subscriber
        self._blocks = Blocks(capacity.block_size)
        self._watch = Watch(api.counted, server, capacity.blocks)
        self._tasks: dict[RequestKey, asyncio.Task[None]] = {}
        self._following: list[asyncio.Task[None]] = []
        self._report: StepReport | None = None
        self._on_step: Callable[[StepReport], None] = lambda _report: None

    def start(self, on_step: Callable[[StepReport], None], on_written: Callable[[Written], None] | None = None) -> None:
        """Follow the engine's events, counters and health. What it writes to its pool is its own affair."""
        del on_written
        self._on_step = on_step
        loop = asyncio.get_running_loop()
        self._following.append(loop.create_task(self._watch.run(lambda: len(self._tasks), self._counted, self._failed)))
        if self._subscriber is not None:
            self._following.append(loop.create_task(self._subscriber.follow(self._blocks, self._changed)))

    def add(self, request: EngineRequest) -> None:
        """Ask the server; a request it cannot do exactly is an output with `error`."""
        refusal = self._api.refusal(request) or self._unhanded(request)
        if refusal is not None:
            self._out(TokenOutput(request.key, (), "error", error=refusal))
            return
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self._tasks[request.key] = task
        task.add_done_callback(lambda _task: self._tasks.pop(request.key, None))

    def cancel(self, key: RequestKey) -> None:
        """Close the connection, by which the server knows."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    def resident(self) -> list[KvEvent]:
        """All blocks of which the engine told."""
        return self._blocks.resident()

    async def close(self) -> None:
        """Drop every request and connection."""
        tasks = [*self._tasks.values(), *self._following]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._subscriber is not None:
            self._subscriber.close()
        for source in self._sources.values():
            await source.server.close()
        await self._server.close()

    # ---- one request --------------------------------------------------------------------------------------

    async def _serve(self, request: EngineRequest) -> None:
        reader, path, finished = self._api.reader(request), self._api.path, False
        try:
            async with self._told(request) as body, contextlib.aclosing(self._server.events(path, body)) as events:
                async for event in events:  # to its end, so that the connection can be used again
                    answer = reader.read(event)
                    finished = finished or (answer is not None and self._answered(request, answer))
            if not finished:
                self._answered(request, reader.end() or Answer(error="the engine ended its answer early"))
        except ServerError as error:
            if not finished:
                self._fail(request, str(error), retryable=error.retryable)
        except msgspec.MsgspecError as error:
            if not finished:
                self._fail(request, f"the engine's answer was not understood: {error}", retryable=False)

    def _answered(self, request: EngineRequest, answer: Answer) -> bool:
        """Pass it on; whether it was the last."""
        if answer.error is not None:
            raise ServerError(answer.error)
        cached = answer.cached_tokens if not request.generated else 0  # of a replay, the first worker's counted
        self._out(TokenOutput(request.key, answer.tokens, answer.finish, answer.logprobs, cached))
        return answer.finish is not None

    @contextlib.asynccontextmanager
    async def _told(self, request: EngineRequest) -> AsyncIterator[Body]:
        """What to ask our server; meanwhile the server of a prefill worker may be asked too."""
        body = self._api.body(request, self._model)
        if request.source is None:
            yield body
            return
        source, room = self._sources[request.source], secrets.randbits(ROOM_BITS)
        if not self._api.handoff.at_once:
            yield await self._handed(request, body, source, room)
            return
        asking = asyncio.create_task(source.ask(self._api, body, room))
        asking.add_done_callback(lambda asked: self._not_met(request.key, asked))
        try:
            yield self._api.handoff.decode(body, source.endpoint, room, {})
        finally:
            asking.cancel()

    # ---- a prompt that another engine computes ------------------------------------------------------------

    def _unhanded(self, request: EngineRequest) -> str | None:
        if request.source is None and self._sources and not self._api.handoff.alone:
            return "a decode worker of this engine computes no prompts itself"
        return None

    async def _handed(self, request: EngineRequest, body: Body, source: Source, room: int) -> Body:
        """Have the prompt computed; what to ask our own server then."""
        try:
            answer = await source.ask(self._api, body, room)
        except ServerError as error:
            if not self._api.handoff.alone or not error.retryable:
                raise
            log.warning("request %d: no KV from %s (%s): computing it here", request.key, request.source, error)
            return body
        return self._api.handoff.decode(body, source.endpoint, room, answer)

    def _not_met(self, key: RequestKey, asked: asyncio.Task[Mapping[str, object]]) -> None:
        """Our engine would wait in vain for KV of a server that failed."""
        error = None if asked.cancelled() else asked.exception()
        if error is not None and key in self._tasks:
            self.cancel(key)
            self._out(TokenOutput(key, (), "error", error=str(error), retryable=True))

    # ---- what happens -------------------------------------------------------------------------------------

    def _fail(self, request: EngineRequest, reason: str, *, retryable: bool) -> None:
        self._out(TokenOutput(request.key, (), "error", error=reason, retryable=retryable))

    def _out(self, output: TokenOutput) -> None:
        self._pending().outputs.append(output)

    def _changed(self, events: list[KvEvent]) -> None:
        self._pending().events += events

    def _counted(self) -> None:
        self._pending()

    def _failed(self, reason: str) -> None:
        self._pending().failure = reason

    def _pending(self) -> StepReport:
        """The report of this turn of the loop: what several requests bring at once goes out as one."""
        if self._report is None:
            self._report = StepReport()
            asyncio.get_running_loop().call_soon(self._flush)
        return self._report

    def _flush(self) -> None:
        report, self._report = self._report, None
        assert report is not None
        report.stats = self._watch.stats(len(self._tasks), self._blocks.count("G1"))
        self._on_step(report)
