"""SGLang's server: its own `/generate` with token ids; both sides of a hand-over meet in a bootstrap server's room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.plane.messages import FinishReason, TokenLogprob
from dynamoc.runtime.process import Endpoint
from dynamoc.runtime.served.api import FACTS_LIMIT_S, Answer, Body, Counted, Facts, forgets_penalties, seed_of
from dynamoc.runtime.served.http import Server

COUNTED = Counted(
    fields={
        "running": "sglang:num_running_reqs",
        "waiting": "sglang:num_queue_reqs",
        "prompt_tokens": "sglang:prompt_tokens_total",
        "generated_tokens": "sglang:generation_tokens_total",
    },
    usage="sglang:token_usage",
)
FINISHES: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


class _Finish(msgspec.Struct):
    type: str
    message: str = ""


class _Meta(msgspec.Struct):
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: _Finish | None = None
    output_token_logprobs: list[tuple[float, int, Any]] = []
    output_top_logprobs: list[list[tuple[float, int, Any]] | None] = []


class _Event(msgspec.Struct):
    output_ids: list[int] = []
    meta_info: _Meta = msgspec.field(default_factory=_Meta)
    error: msgspec.Raw | None = None


class _Info(msgspec.Struct):
    page_size: int | None = None
    max_total_num_tokens: int | None = None
    context_length: int | None = None
    max_running_requests: int | None = None
    chunked_prefill_size: int | None = None


_decode = msgspec.json.Decoder(_Event).decode


class _Reader:
    """Events say all tokens so far or only new ones, as the server was told; how many there are is in both."""

    def __init__(self, logprobs: int) -> None:
        self._alternatives = logprobs
        self._seen = 0

    def read(self, event: bytes) -> Answer | None:
        """The tokens that are new."""
        said = _decode(event)
        if said.error is not None:
            return Answer(error=bytes(said.error).decode(errors="replace"))
        meta, finish = said.meta_info, said.meta_info.finish_reason
        new = meta.completion_tokens - self._seen
        self._seen = meta.completion_tokens
        tokens = tuple(said.output_ids[-new:]) if new > 0 else ()
        if finish is None:
            return Answer(tokens, None, self._logprobs(meta, new)) if tokens else None
        if finish.type not in FINISHES:
            return Answer(error=f"the engine ended the request ({finish.type}): {finish.message}")
        return Answer(tokens, FINISHES[finish.type], self._logprobs(meta, new), meta.cached_tokens)

    def end(self) -> Answer | None:
        """Nothing is held back."""
        return None

    def _logprobs(self, meta: _Meta, new: int) -> tuple[TokenLogprob, ...]:
        if self._alternatives < 0 or new <= 0:
            return ()
        chosen = meta.output_token_logprobs[-new:]
        tops = meta.output_top_logprobs[-new:] or [None] * len(chosen)
        return tuple(
            TokenLogprob(logprob, tuple((token, value) for value, token, _ in top or ()))
            for (logprob, _, _), top in zip(chosen, tops, strict=True)
        )


class _Handoff:
    """Both servers are told the room in which their KV managers meet."""

    at_once = True
    alone = False

    def prefill(self, body: Body, peer: Endpoint, room: int) -> Body:
        """The same request, answered once."""
        return {**body, **_room(peer, room), "stream": False}

    def decode(self, body: Body, peer: Endpoint, room: int, answer: Mapping[str, object]) -> Body:
        """The same request."""
        del answer
        return {**body, **_room(peer, room)}


def _room(peer: Endpoint, room: int) -> Body:
    return {"bootstrap_host": peer.host, "bootstrap_port": peer.ports["bootstrap"], "bootstrap_room": room}


class SglangApi:
    """`/generate` with token ids."""

    path = "/generate"
    handoff = _Handoff()
    counted = COUNTED

    def refusal(self, request: EngineRequest) -> str | None:
        """A replay under penalties."""
        return forgets_penalties(request)

    def body(self, request: EngineRequest, model: str) -> Body:
        """All tokens are -1 for `top_k`; the seed counts where the server was started to be deterministic."""
        del model
        sampling = request.sampling
        parameters: Body = {
            "max_new_tokens": sampling.max_tokens - request.generated,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stop_token_ids": sampling.stop_token_ids,
            "ignore_eos": sampling.ignore_eos,
        }
        if sampling.temperature > 0:
            parameters["sampling_seed"] = seed_of(request)
        body: Body = {"input_ids": request.tokens, "sampling_params": parameters, "stream": True}
        if sampling.logprobs >= 0:
            body |= {"return_logprob": True, "top_logprobs_num": sampling.logprobs}
        return body

    def reader(self, request: EngineRequest) -> _Reader:
        """For one request."""
        return _Reader(request.sampling.logprobs)

    async def facts(self, server: Server) -> Facts:
        """As its server information says."""
        info = msgspec.json.decode(await server.get("/get_server_info", FACTS_LIMIT_S), type=_Info)
        page = info.page_size or 1
        return Facts(
            block_size=page,
            blocks=(info.max_total_num_tokens or 0) // page,
            context_length=info.context_length or 0,
            max_batched_tokens=max(info.chunked_prefill_size or 0, 0),
            max_sequences=info.max_running_requests or 0,
        )


API = SglangApi()
