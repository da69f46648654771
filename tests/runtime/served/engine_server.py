"""A small server that answers as an engine's does: real HTTP, and tokens that follow from the prompt."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from dynamoc.runtime.engines.generator import Capacity
from dynamoc.runtime.engines.protocol import EngineRequest, StepReport
from dynamoc.runtime.plane.messages import Sampling, TokenOutput
from dynamoc.runtime.process import Endpoint
from dynamoc.runtime.served.engine import ServedEngine
from dynamoc.runtime.served.http import Server
from dynamoc.runtime.served.registry import api_of

LIMIT_S = 10.0
METRICS = """
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 5.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:prompt_tokens_total{engine="0"} 40.0
vllm:prompt_tokens_total{engine="1"} 2.0
vllm:cache_config_info{block_size="32",num_gpu_blocks="64",engine="0"} 1.0
"""


@dataclass
class Engine:
    """Output token `i` is prompt token `i` + 1. `status` refuses all requests; `cut_after` tokens the stream breaks."""

    status: int = 200
    cut_after: int | None = None
    hold: bool = False
    cumulative: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._take(request)
        if not body["stream"]:
            more: dict[str, Any] = {}
            if "kv_transfer_params" in body:
                more = {"kv_transfer_params": {"remote_engine_id": "p", "remote_block_ids": [[1, 2]]}}
            context = {"index": 0, "text": "", "disaggregated_params": {"ctx_request_id": 7, "request_type": "x"}}
            return web.json_response({"choices": [context], **more})
        events: list[dict[str, Any]] = []
        for index, token in enumerate(body["prompt"][: body["max_tokens"]]):
            choice: dict[str, Any] = {"index": 0, "text": "x", "token_ids": [token + 1], "finish_reason": None}
            if "logprobs" in body:
                top = {f"token_id:{token + 1}": -0.5, "token_id:7": -0.25, "token_id:8": -3.0}
                choice["logprobs"] = {"token_logprobs": [-0.5], "tokens": ["?"], "top_logprobs": [top]}
            events.append({"choices": [choice], "usage": None, "n": index})
        events[-1]["choices"][0]["finish_reason"] = "length"
        events.append({"choices": [], "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 32}}})
        return await self._stream(request, events)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await self._take(request)
        tokens = [token + 1 for token in body["input_ids"]][: body["sampling_params"]["max_new_tokens"]]
        if not body["stream"]:
            return web.json_response({"output_ids": tokens[:1], "meta_info": {"id": "x"}})
        events = []
        for index in range(len(tokens)):
            last = index + 1 == len(tokens)
            meta = {
                "completion_tokens": index + 1,
                "cached_tokens": 5,
                "finish_reason": {"type": "length"} if last else None,
            }
            said = tokens[: index + 1] if self.cumulative else tokens[index : index + 1]
            events.append({"text": "x", "output_ids": said, "meta_info": meta})
        return await self._stream(request, events)

    async def _take(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.asked.append(body)
        if self.status != 200:
            raise _refusal(self.status)
        return body

    async def _stream(self, request: web.Request, events: list[dict[str, Any]]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number, event in enumerate(events):
                if number == self.cut_after:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
                while self.hold:
                    await asyncio.sleep(0.01)
                    await response.write(b": still here\n\n")
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        return response


def _refusal(status: int) -> web.HTTPException:
    class Refusal(web.HTTPException):
        status_code = status

    return Refusal(text='{"error": {"message": "no, thanks"}}')


@contextlib.asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Endpoint]:
    """The server on a free port of this machine."""
    app = web.Application()
    app.router.add_post("/v1/completions", engine.completions)
    app.router.add_post("/generate", engine.generate)
    app.router.add_get("/health", _page(""))
    app.router.add_get("/metrics", _page(METRICS))
    app.router.add_get("/v1/models", _page(json.dumps({"data": [{"id": "smol", "max_model_len": 2048}]})))
    info = {"page_size": 16, "max_total_num_tokens": 1600, "context_length": 4096, "max_running_requests": 12}
    app.router.add_get("/get_server_info", _page(json.dumps(info)))
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield Endpoint("127.0.0.1", {"http": port, "bootstrap": 8998})
    finally:
        await runner.cleanup()


def _page(text: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=text)

    return answer


class Front:
    """A `ServedEngine` and what it reports."""

    def __init__(self, name: str, endpoint: Endpoint, sources: dict[str, Endpoint] | None = None) -> None:
        server = Server(endpoint.host, endpoint.ports["http"])
        capacity = Capacity(32, 64, "x")
        self.engine = ServedEngine(name, api_of(name), server, "smol", capacity, sources=sources or {}, subscriber=None)
        self.reports: list[StepReport] = []
        self._news = asyncio.Event()
        self.engine.start(self._take)

    def _take(self, report: StepReport) -> None:
        self.reports.append(report)
        self._news.set()

    @property
    def outputs(self) -> list[TokenOutput]:
        return [output for report in self.reports for output in report.outputs]

    async def finished(self, key: int) -> list[TokenOutput]:
        """All outputs of a request, once the last is there."""
        async with asyncio.timeout(LIMIT_S):
            while not any(o.request_id == key and o.finish is not None for o in self.outputs):
                self._news.clear()
                await self._news.wait()
        return [output for output in self.outputs if output.request_id == key]

    async def until(self, reported: int) -> None:
        """So many reports came."""
        async with asyncio.timeout(LIMIT_S):
            while len(self.reports) < reported:
                self._news.clear()
                await self._news.wait()


def request(
    key: int = 1, tokens: int = 4, source: str | None = None, generated: int = 0, **sampling: Any
) -> EngineRequest:
    said = Sampling(**{"max_tokens": 8, "temperature": 0.0, **sampling})
    return EngineRequest(key, list(range(10, 10 + tokens)), said, generated, source=source)
