"""TensorRT-LLM's server: OpenAI's completions without detokenization; contexts are handed on as an opaque state."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.process import Endpoint
from dynamoc.runtime.served.api import Body, Facts, forgets_penalties
from dynamoc.runtime.served.completions import CompletionReader, completion_body
from dynamoc.runtime.served.http import Server


class _Handoff:
    """The context server's answer holds what the generation server needs to fetch the KV."""

    at_once = False
    alone = True

    def prefill(self, body: Body, peer: Endpoint, room: int) -> Body:
        """The context alone."""
        del peer, room
        plain = {key: value for key, value in body.items() if key != "stream_options"}
        return {**plain, "max_tokens": 1, "stream": False, "disaggregated_params": {"request_type": "context_only"}}

    def decode(self, body: Body, peer: Endpoint, room: int, answer: Mapping[str, object]) -> Body:
        """From the state on, whose first tokens it repeats."""
        del peer, room
        choices = answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else {}
        state = first.get("disaggregated_params") or {}
        return {**body, "disaggregated_params": {**state, "request_type": "generation_only"}}


class TrtllmApi:
    """`/v1/completions` with token ids."""

    path = "/v1/completions"
    handoff = _Handoff()
    counted = None

    def refusal(self, request: EngineRequest) -> str | None:
        """It names the tokens of logprobs by their text, from which ids cannot be told."""
        if request.sampling.logprobs >= 0:
            return "this engine's server says logprobs of texts, not of tokens"
        return forgets_penalties(request)

    def body(self, request: EngineRequest, model: str) -> Body:
        """Its `top_k` of 0 is all, as ours."""
        return {**completion_body(request, model), "detokenize": False}

    def reader(self, request: EngineRequest) -> CompletionReader:
        """For one choice."""
        return CompletionReader(request.sampling.logprobs)

    async def facts(self, server: Server) -> Facts:
        """Its server says none of them: the plan's hold."""
        del server
        return Facts()


API = TrtllmApi()
